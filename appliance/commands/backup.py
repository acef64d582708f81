"""`appliance backup`: make backups of hosts, look at them, check them, keep as many as the policy says."""

import sys
import time
from collections.abc import Callable

import click

from appliance import reach
from appliance.commands.common import (
    load_inventory,
    print_json,
    results_console,
    target_options,
    tell,
    yes_option,
)
from appliance.errors import UsageError

PROGRAM = "/usr/lib/casemate/bin/casemate-backup"


def filter_options(command: Callable) -> Callable:
    """What a backup or a restore is about; nothing is everything."""
    for option in (
        click.option("--exclude-volume", multiple=True, metavar="NAME", help="Leave this volume out."),
        click.option("--exclude-pod", multiple=True, metavar="NAME", help="Leave this pod and its volumes out."),
        click.option("--volume", multiple=True, metavar="NAME", help="This volume."),
        click.option("--select", "selector", default="", metavar="LABELS",
                     help="Pods with these labels, as in app=shop,tier!=cache."),
        click.option("--pod", multiple=True, metavar="NAME", help="This pod, with all that it uses."),
    ):  # fmt: skip
        command = option(command)
    return command


def filter_words(pod: tuple, selector: str, volume: tuple, exclude_pod: tuple, exclude_volume: tuple) -> list[str]:
    """The same for `casemate-backup`."""
    named = (("--pod", pod), ("--volume", volume), ("--exclude-pod", exclude_pod), ("--exclude-volume", exclude_volume))
    words = [word for option, names in named for name in names for word in (option, name)]
    return words + (["--selector", selector] if selector else [])


@click.group("backup")
def command() -> None:
    """Save hosts' pods, volumes and configuration, and look at what was saved.

    Where backups go and how many are kept is declared in the inventory: backup_repository and the rest of role backup.

    \b
    Examples:
      appliance backup now
      appliance backup list
      appliance backup verify --limit edge1
    """


@command.command("now")
@target_options
@filter_options
def now(inventory: tuple, limit: str | None, output: str, **wanted: object) -> None:
    """Make a backup of each host, now; of all of it, or of what is selected.

    \b
    Examples:
      appliance backup now
      appliance backup now --select app=shop
      appliance backup now --limit edge1 --exclude-volume scratch
    """
    _show(_ask(inventory, limit, "now", *filter_words(**wanted)), output, _made)


@command.command("list")
@target_options
def list_(inventory: tuple, limit: str | None, output: str) -> None:
    """The hosts' backups, oldest first, and how the last run ended.

    \b
    Example:
      appliance backup list -o json | jq '.hosts[] | [.name, .last_good.ended]'
    """
    answers = _ask(inventory, limit, "list", quiet=True)
    if output == "json":
        _json(answers)
    for answer in [] if output == "json" else answers:
        console = results_console()
        told = answer.value or {"repository": "", "backups": [], "last": None}
        console.print(f"[bold]{answer.host.name}[/]  {told['repository']}")
        if answer.error:
            console.print(f"  {answer.error}", style="red", markup=False)
        for one in told["backups"]:
            what = "everything" if one["everything"] else "a part"
            console.print(f"  {one['id']}  {one['time'][:19].replace('T', ' ')}  {what}")
        if not told["backups"] and not answer.error:
            console.print("  no backup yet: appliance backup now", style="dim")
        if told["last"] and not told["last"]["ok"]:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(told["last"]["ended"]))
            console.print(f"  the last run, {when}, failed: {told['last']['error']}", style="red", markup=False)
    sys.exit(reach.exit_code(answers))


@command.command("show")
@target_options
@click.argument("backup", default="latest")
def show(inventory: tuple, limit: str | None, output: str, backup: str) -> None:
    """What is in a BACKUP: pods, volumes, images, and of which host and release it is.

    \b
    Example:
      appliance backup show 4f1d2c3a --limit edge1
    """

    def words(told: dict) -> str:
        lines = [
            f"{told['id']}  {told['taken']}  host {told['host']}, release {told['release']}, {told['distribution']}"
        ]
        for kind in ("pods", "volumes"):
            lines.append(f"  {kind}: {', '.join(one['name'] for one in told[kind]) or 'none'}")
        lines += [f"  {kind}: {', '.join(told[kind]) or 'none'}" for kind in ("configmaps", "secrets")]
        return "\n".join([*lines, f"  images: {', '.join(one['reference'] for one in told['images']) or 'none'}"])

    _show(_ask(inventory, limit, "show", "--snapshot", backup, quiet=True), output, words)


@command.command("verify")
@target_options
@click.option("--part", default="", metavar="N%", help="Read only so much of the data, chosen by chance.")
def verify(inventory: tuple, limit: str | None, output: str, part: str) -> None:
    """Read hosts' repositories and compare all that is in them with its checksums.

    \b
    Examples:
      appliance backup verify
      appliance backup verify --part 10%
    """
    _show(_ask(inventory, limit, "verify", *(["--part", part] if part else [])), output, lambda told: "sound")


@command.command("prune")
@target_options
@yes_option
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def prune(inventory: tuple, limit: str | None, output: str, yes: bool, dry_run: bool) -> None:
    """Remove the backups that backup_keep does not keep, and free their space. The last one of each host stays.

    \b
    Example:
      appliance backup prune --dry-run
    """
    if not dry_run and not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                "prune removes backups, and there is no terminal to ask on", cure="give --yes, or --dry-run"
            )
        click.confirm("Remove what the policy does not keep?", err=True, abort=True)
    answers = _ask(inventory, limit, "prune", *(["--dry-run"] if dry_run else []))
    gone = "would remove" if dry_run else "removed"
    _show(answers, output, lambda told: f"keeps {len(told['kept'])}, {gone} {', '.join(told['removed']) or 'none'}")


def _made(told: dict) -> str:
    of = "" if told["consistent"] else "; each file as it was when it was read (the pool is no btrfs)"
    seconds = told["ended"] - told["began"]
    return f"backup {told['id']}: {size(told['bytes'])}, {size(told['added'])} new, {seconds:.0f} s{of}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _ask(inventory: tuple, limit: str | None, *words: str, quiet: bool = False) -> list[reach.Answer]:
    hosts = load_inventory(inventory, limit).hosts
    return reach.ask(hosts, PROGRAM, *words, heard=(lambda host, line: None) if quiet else tell)


def _show(answers: list[reach.Answer], output: str, words: Callable[[dict], str]) -> None:
    if output == "json":
        _json(answers)
    else:
        for answer in answers:
            state, style = ("failed", "red") if answer.error else ("done", "green")
            text = answer.error.removeprefix("casemate-backup: ") or words(answer.value)
            results_console().print(f"[{style}]{state:<7}[/] {answer.host.name:<20} ", end="")
            results_console().print(text, markup=False)
    sys.exit(reach.exit_code(answers))


def _json(answers: list[reach.Answer]) -> None:
    errors = [{"error": one.error.removeprefix("casemate-backup: ")} if one.error else {} for one in answers]
    print_json({"hosts": [{"name": one.host.name, **(one.value or {}), **error}
                          for one, error in zip(answers, errors, strict=True)]})  # fmt: skip
