"""What the verbs share: options, output, and how an error is shown."""

import contextlib
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from appliance.content import content, inventory_path
from appliance.errors import CasemateError, UsageError
from appliance.render import JsonLines, People

if TYPE_CHECKING:
    from appliance.inventory import Host, Inventory

DEFAULT_INVENTORY = Path("inventories/lab")
UNLIMITED = 100_000  # columns

inventory_option = click.option(
    "-i", "--inventory", "inventory", multiple=True, type=click.Path(path_type=Path), metavar="INVENTORY",
    help="Inventory file or directory; may be given again.  [default: inventories/lab]",
)  # fmt: skip
limit_option = click.option("--limit", metavar="PATTERN", help="Only these hosts (an Ansible host pattern).")
output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="How results are printed.",
)  # fmt: skip
# for verbs whose --output is a file
format_option = click.option(
    "-o",
    "output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How results are printed.",
)
lock_option = click.option(
    "--lock", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Install exactly what this lock says (see: appliance lock).",
)  # fmt: skip
bundle_option = click.option(
    "--bundle", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Take everything from this bundle; hosts need no network (see: appliance bundle).",
)  # fmt: skip
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def target_options(command: Callable) -> Callable:
    """The options of every verb that works on an inventory's hosts."""
    for option in (output_option, limit_option, inventory_option):
        command = option(command)
    return command


def load_inventory(given: tuple[Path, ...], limit: str | None) -> "Inventory":
    """The validated inventory of the command line; raises InventoryError before any host is touched."""
    from appliance.inventory import load  # ansible-core's loader takes half a second that `lab` and help do not need

    sources = [inventory_path(path) for path in given or (DEFAULT_INVENTORY,)]
    return load(sources, limit, content=content())


@contextlib.contextmanager
def release_variables(lock: Path | None, bundle: Path | None) -> Iterator[dict]:
    """What a run is told of the lock or the bundle of the command line, which is looked at first.

    Raises UsageError where it is none, or both are given, BundleError where not every bit of a bundle is right.
    """
    if lock and bundle:
        raise UsageError("--lock and --bundle are given", cure="a bundle has its lock in it: give --bundle alone")
    if lock:
        from appliance import lock as locks  # jsonschema takes a while, and only this needs it

        locks.read(lock)
        yield {"base_lock": str(lock.resolve())}
    elif bundle:
        from appliance.bundle import LOCK
        from appliance.commands.bundle import checked

        found = checked(bundle)
        with tempfile.NamedTemporaryFile(prefix="casemate-lock-") as file:
            file.write(found.read(LOCK))
            file.flush()
            yield {"base_lock": file.name, "base_bundle": str(bundle.resolve()), "preflight_offline": True}
    else:
        yield {}


def renderer(output: str, *, dry: bool = False, show_diff: bool = False) -> JsonLines | People:
    """How a run's events are shown."""
    return JsonLines() if output == "json" else People(dry=dry, show_diff=show_diff)


def results_console() -> Console:
    """Where results for people go: stdout; off a terminal no line is wrapped and no column cut."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=UNLIMITED)


def progress_console() -> Console:
    """Where progress goes: stderr."""
    return Console(stderr=True, highlight=False)


def table(*headings: str) -> Table:
    """An empty table in the form of all of ours."""
    made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for heading in headings:
        made.add_column(heading, no_wrap=True)
    return made


def print_hanging(console: Console, mark: str, *lines: Text) -> None:
    """Print lines beside a mark (markup); what does not fit goes on below its own beginning."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row(mark, line)
        mark = ""
    console.print(Padding(grid, (0, 0, 0, 2), expand=False))


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def progress(text: str) -> None:
    """One line about long work; progress goes to stderr, results to stdout."""
    click.echo(text, err=True)


def wants_json() -> bool:
    """Whether the running command was asked for JSON; usable before click has parsed the command line."""
    words = sys.argv[1:]
    return any(w in ("-ojson", "--output=json", "-o=json") for w in words) or any(
        a in ("-o", "--output") and b == "json" for a, b in itertools.pairwise(words)
    )


def report_error(error: CasemateError) -> None:
    if wants_json():
        click.echo(json.dumps(error.as_dict()))
        return
    click.echo(click.style("error: ", fg="red", bold=True, reset=True) + error.message, err=True)
    if error.place:
        click.echo(f"  where: {error.place}", err=True)
    if error.cure:
        click.echo(f"  cure:  {error.cure}", err=True)


def tell(host: "Host", line: str) -> None:
    """What a host's program is doing, as it says it; its last words, which have its name, are shown as the outcome."""
    if line and not line.startswith(("casemate-release: ", "casemate-backup: ")):
        progress(f"{host.name}: {line}")
