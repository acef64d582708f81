"""`appliance rollback`: back to a release that hosts keep."""

import sys
import time

import click

from appliance import reach
from appliance.commands.common import (
    load_inventory,
    print_json,
    progress,
    results_console,
    target_options,
    tell,
    yes_option,
)
from appliance.errors import EXIT_OK, UsageError
from appliance.rollout import PROGRAM


@click.command("rollback")
@target_options
@yes_option
@click.option("--to", metavar="ID", help="The lock's id.  [default: the release that each host left last]")
@click.option("--list", "only_list", is_flag=True, help="Show which releases the hosts keep, and change nothing.")
@click.option("--grace", type=click.IntRange(0), default=30, show_default=True, metavar="SECONDS",
              help="How long a host has to stay well.")  # fmt: skip
def command(
    inventory: tuple, limit: str | None, output: str, yes: bool, to: str | None, only_list: bool, grace: int
) -> None:
    """Bring hosts back to a release that they keep: packages, configuration, node programs and guest.

    It needs no network: a host keeps the last releases that `upgrade` brought it away from. It is a transaction, as an
    upgrade is; pods run on. What pods and their volumes hold is not touched.

    \b
    Examples:
      appliance rollback --list
      appliance rollback --limit edge1
      appliance rollback --to 0b12c3d4e5f6 --yes
    """
    hosts = load_inventory(inventory, limit).hosts
    kept = reach.ask(hosts, PROGRAM, "kept")
    if only_list or any(answer.error for answer in kept):
        _show(kept, output)
        sys.exit(reach.exit_code(kept))
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("rollback changes hosts, and there is no terminal to ask on", cure="give --yes")
        for answer in kept:
            target = to or next((one["id"] for one in answer.value["kept"]), "(none is kept)")
            progress(f"{answer.host.name}: {answer.value['current'] or 'no lock'} -> {target}")
        if not click.confirm("Go back?", err=True, default=False):
            sys.exit(EXIT_OK)
    progress(f"going back on {', '.join(host.name for host in hosts)}")
    words = [*(["--to", to] if to else []), "--grace", str(grace)]
    answers = reach.ask(hosts, PROGRAM, "back", *words, heard=tell)
    told = [
        {"name": one.host.name, "state": "rolled back" if not one.error else "failed", "error": one.error}
        | (one.value or {})
        for one in answers
    ]
    if output == "json":
        print_json({"hosts": told})
    else:
        for one in told:
            words = one["error"].removeprefix("casemate-release: ") or f"{one['from'] or 'no lock'} -> {one['to']}"
            results_console().print(f"{one['state']:<12} {one['name']:<20} {words}", markup=False)
    sys.exit(reach.exit_code(answers))


def _show(kept: list[reach.Answer], output: str) -> None:
    if output == "json":
        print_json({"hosts": [{"name": one.host.name, "error": one.error} | (one.value or {}) for one in kept]})
        return
    console = results_console()
    for answer in kept:
        if answer.error:
            console.print(f"{answer.host.name}: {answer.error}", style="red", markup=False)
            continue
        console.print(f"{answer.host.name}: here is {answer.value['current'] or 'no lock'}", markup=False)
        for one in answer.value["kept"]:
            left = time.strftime("%Y-%m-%d %H:%M", time.localtime(one["left"]))
            console.print(f"  {one['id']}  left {left}", markup=False)
