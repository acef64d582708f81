"""`appliance bundle`: everything that a lock names, as one file."""

import tempfile
from pathlib import Path

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from appliance import bundle, download, images, signing
from appliance import lock as locks
from appliance.commands.common import format_option, print_json, progress, progress_console, results_console
from appliance.errors import UsageError
from appliance.node import fetch

_FILE = click.Path(dir_okay=False, path_type=Path)
_PLACE = click.argument("file", type=_FILE, metavar="BUNDLE")


@click.group("bundle")
def command() -> None:
    """One file that a deploy needs no network with: packages, artifacts, images and the lock that names them.

    \b
    Examples:
      appliance bundle build
      appliance bundle verify casemate.bundle
      appliance deploy --bundle casemate.bundle
    """


@command.command("build")
@click.option("--lock", "lock_file", type=_FILE, default=Path("appliance.lock"), show_default=True, metavar="FILE",
              help="The lock (see: appliance lock).")  # fmt: skip
@click.option("--output", "file", type=_FILE, default=Path("casemate.bundle"), show_default=True, metavar="FILE",
              help="Where the bundle is written.")  # fmt: skip
@format_option
def build(lock_file: Path, file: Path, output: str) -> None:
    """Fetch what a lock names and pack it, signed with this site's key.

    The same lock gives the same file, bit by bit. A download that was cut off goes on when the command is run again.
    The site's key is made at the first run, in ~/.config/casemate/signing.

    \b
    Examples:
      appliance bundle build
      appliance bundle build --lock fleet.lock --output fleet.bundle
    """
    lock = locks.read(lock_file)
    wanted = bundle.downloads(lock)
    total = sum(one.size for one in wanted)
    missing = [one for one in wanted if not one.path.exists()]
    progress(f"lock {lock['id']}: {len(wanted)} files, {total >> 20} MiB, of which {len(missing)} are to be fetched")
    with _bar() as bar:
        task = bar.add_task("fetching", total=sum(one.size for one in missing) or None)
        download.fetch_all(wanted, lambda count: bar.advance(task, count))
    with tempfile.TemporaryDirectory(prefix="casemate-bundle-") as work:
        packed = {}
        for reference, digest in lock["images"].items():
            progress(f"image {reference}")
            packed[reference] = images.pack(reference, digest, locks.architectures(lock), Path(work))
        key = bundle.build(lock, packed, file, progress)
    result = {"bundle": str(file), "lock": lock["id"], "bytes": file.stat().st_size, "key": key}
    if output == "json":
        print_json(result | {"sha256": fetch.sum_of(file)})
    else:
        results_console().print(f"[bold]{file}[/]  {result['bytes'] >> 20} MiB, lock {lock['id']}, signed by {key}")


@command.command("verify")
@_PLACE
@click.option("--believe", metavar="FINGERPRINT", help="Believe this key from now on, if the bundle is signed by it.")
@format_option
def verify(file: Path, believe: str | None, output: str) -> None:
    """Look at every bit of a bundle: is it whole, unchanged, and built by a site that is believed?

    Exit code 1 where it is not; cut short, damaged and forged are told apart.

    \b
    Examples:
      appliance bundle verify casemate.bundle
      appliance bundle verify casemate.bundle --believe 0123456789ABCDEF0123456789ABCDEF01234567
    """
    if believe:
        _believe(file, believe.replace(" ", "").upper())
    found = checked(file)
    if output == "json":
        print_json(_description(found) | {"ok": True})
    else:
        words = f"lock {found.lock['id']}, {len(found.entries)} files, signed by {found.manifest['key']}"
        results_console().print(f"[green]ok[/]  {file}: {words}")


@command.command("show")
@_PLACE
@format_option
def show(file: Path, output: str) -> None:
    """Show what a bundle holds, without looking at every bit."""
    manifest, entries = bundle.table(file)
    if output == "json":
        print_json({"bundle": str(file), **manifest})
        return
    console = results_console()
    console.print(f"[bold]{file}[/]  release {manifest['release']}, lock {manifest['lock']}, key {manifest['key']}")
    for entry in entries:
        console.print(f"  {entry.size:>12}  {entry.name}", markup=False)


def checked(file: Path) -> bundle.Bundle:
    """A bundle that was looked at as a whole, with progress; raises BundleError."""
    size = file.stat().st_size if file.exists() else 0
    with _bar() as bar:
        task = bar.add_task("verifying", total=size)
        return bundle.verify(file, signing.believed(), lambda count: bar.advance(task, count))


def _believe(file: Path, fingerprint: str) -> None:
    """Take the key from the bundle, once it is seen to be the one that was named."""
    public = bundle.read_key(file)
    found = signing.fingerprint_of(public)
    if found != fingerprint:
        raise UsageError(f"the bundle's key is {found}, not {fingerprint}", place=str(file), cure="compare them again")
    signing.believe(public)


def _description(found: bundle.Bundle) -> dict:
    return {
        "bundle": str(found.path),
        "lock": found.lock["id"],
        "release": found.lock["release"],
        "key": found.manifest["key"],
        "files": len(found.entries),
        "bytes": found.path.stat().st_size,
    }


def _bar() -> Progress:
    """Progress on stderr, gone when it is over; nothing where that is no terminal."""
    console = progress_console()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(),
               TimeRemainingColumn())  # fmt: skip
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
