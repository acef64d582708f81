"""`appliance volumes`: the volumes that pods claim, their snapshots, and the way back to one."""

import sys
import time
from collections.abc import Callable

import click
from rich.padding import Padding
from rich.table import Table

from appliance import reach
from appliance.commands.backup import size
from appliance.commands.common import (
    load_inventory,
    print_json,
    results_console,
    target_options,
    tell,
    yes_option,
)
from appliance.errors import EXIT_OK, UsageError
from appliance.inventory import Host

PROGRAM = "/usr/lib/casemate/bin/casemate-volumes"
_NAME = "casemate-volumes: "


@click.group("volumes", invoke_without_command=True)
@target_options
@click.pass_context
def command(context: click.Context, inventory: tuple, limit: str | None, output: str) -> None:
    """Show each host's volumes: size, use, the pods that claim them, and their snapshots.

    Volumes, and when snapshots of them are made, are declared in the inventory: storage_volumes.

    \b
    Examples:
      appliance volumes
      appliance volumes snapshot orders --limit edge1
      appliance volumes rollback orders --limit edge1
    """
    if context.invoked_subcommand:
        if inventory or limit or output != "text":
            verb = f"appliance volumes {context.invoked_subcommand}"
            raise UsageError("options stand before the verb that they are for", cure=f"{verb} ... --limit HOST")
        return
    answers = reach.ask(load_inventory(inventory, limit).hosts, PROGRAM, "list")
    if output == "json":
        print_json({"hosts": [_shape(answer) for answer in answers]})
    else:
        _show(answers)
    sys.exit(reach.exit_code(answers))


@command.command("snapshot")
@target_options
@click.argument("volume")
def snapshot(inventory: tuple, limit: str | None, output: str, volume: str) -> None:
    """Make a snapshot of a VOLUME, now; it stays until it is dropped.

    \b
    Example:
      appliance volumes snapshot orders --limit edge1
    """
    host = _one(inventory, limit)
    _end(_ask(host, "snapshot", volume), output, lambda told: f"snapshot {told['name']} of {told['volume']}")


@command.command("rollback")
@target_options
@yes_option
@click.argument("volume")
@click.option("--to", default="", metavar="TIME", help="Which snapshot.  [default: the last one]")
def rollback(inventory: tuple, limit: str | None, output: str, yes: bool, volume: str, to: str) -> None:
    """Put a VOLUME back to a snapshot. Pods that use it are stopped meanwhile.

    What the volume was until then is kept, below /var/lib/casemate/pool/replaced.

    \b
    Examples:
      appliance volumes rollback orders --limit edge1
      appliance volumes rollback orders --limit edge1 --to 20261123T210003Z --yes
    """
    host, words = _one(inventory, limit), (["--to", to] if to else [])
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("rollback replaces a volume, and there is no terminal to ask on", cure="give --yes")
        answer = _ask(host, "rollback", volume, *words, "--dry-run")
        if answer.error:
            _end(answer, output, str)
        pods = f", and stop {', '.join(answer.value['users'])} meanwhile" if answer.value["users"] else ""
        if not click.confirm(f"Put {volume} back to {answer.value['to']}{pods}?", err=True, default=False):
            sys.exit(EXIT_OK)
    answer = _ask(host, "rollback", volume, *words)
    _end(answer, output, lambda told: f"{volume} is as of {told['to']}; what it was is in {told['replaced']}")


@command.command("drop")
@target_options
@click.argument("volume")
@click.argument("time", metavar="TIME")
def drop(inventory: tuple, limit: str | None, output: str, volume: str, time: str) -> None:
    """Remove the snapshot of a VOLUME that was taken at TIME, as `appliance volumes -o json` names it.

    \b
    Example:
      appliance volumes drop orders 20261123T210003Z-manual --limit edge1
    """
    host = _one(inventory, limit)
    _end(_ask(host, "drop", volume, time), output, lambda told: f"snapshot {told['name']} of {told['volume']} is gone")


def _one(inventory: tuple, limit: str | None) -> Host:
    hosts = load_inventory(inventory, limit).hosts
    if len(hosts) != 1:
        raise UsageError(f"this works on one host, and the inventory has {len(hosts)}", cure="--limit HOST")
    return hosts[0]


def _ask(host: Host, *words: str) -> reach.Answer:
    (answer,) = reach.ask([host], PROGRAM, *words, heard=_tell)
    return answer


def _tell(host: Host, line: str) -> None:
    if not line.startswith(_NAME):  # its last words are shown as the outcome
        tell(host, line)


def _shape(answer: reach.Answer) -> dict:
    error = {"error": answer.error.removeprefix(_NAME)} if answer.error else {}
    return {"name": answer.host.name, **(answer.value or {"pool": None, "volumes": []}), **error}


def _end(answer: reach.Answer, output: str, words: Callable[[dict], str]) -> None:
    if output == "json":
        error = {"error": answer.error.removeprefix(_NAME)} if answer.error else {}
        print_json({"name": answer.host.name, **(answer.value or {}), **error})
    elif answer.error:
        text = f"failed  {answer.host.name}: {answer.error.removeprefix(_NAME)}"
        results_console().print(text, style="red", markup=False)
    else:
        results_console().print(f"[green]done[/]    {answer.host.name}: ", end="")
        results_console().print(words(answer.value), markup=False)
    sys.exit(reach.exit_code([answer]))


def _show(answers: list[reach.Answer]) -> None:
    console = results_console()
    for answer in answers:
        free = f"  {answer.value['pool']['free_percent']:.0f}% of the pool free" if answer.value else ""
        console.print(f"[bold]{answer.host.name}[/]{free}")
        if answer.error:
            console.print(f"  {answer.error.removeprefix(_NAME)}", style="red", markup=False)
        elif not answer.value["volumes"]:
            console.print("  no volumes: declare them in storage_volumes", style="dim")
        else:
            console.print(Padding(_table(answer.value["volumes"]), (0, 0, 0, 2), expand=False))
        console.print()


def _table(volumes: list[dict]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("VOLUME", "SIZE", "USED", "PODS", "SNAPSHOTS", "EVERY", "LAST"):
        table.add_column(heading, no_wrap=True, justify="right" if heading in ("SIZE", "USED", "SNAPSHOTS") else "left")
    for one in volumes:
        taken = one["snapshots"]
        table.add_row(
            one["name"], size(one["size"]) if one["size"] else "-", "-" if one["used"] is None else size(one["used"]),
            ", ".join(one["pods"]) or "-", str(len(taken)), one["schedule"] or "-",
            _age(time.time() - taken[-1]["taken"]) if taken else "-",
        )  # fmt: skip
    return table


def _age(seconds: float) -> str:
    """A time span in its largest unit."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f}{unit} ago"
    return f"{max(0, seconds):.0f}s ago"
