"""`appliance reset`: remove what Casemate owns, and only that."""

import sys

import click

from appliance.commands.common import load_inventory, renderer, target_options, yes_option
from appliance.errors import EXIT_FAILED, UsageError
from appliance.run import exit_code, run_playbook


@click.command("reset")
@target_options
@yes_option
@click.option("--wipe-storage", is_flag=True, help="Erase the storage pool as well, with all data on it.")
def command(inventory: tuple, limit: str | None, output: str, yes: bool, wipe_storage: bool) -> None:
    """Remove what Casemate owns from the hosts, and only that.

    Shows for each host what it would remove and asks. Pods, units, files, programs, the pods' network and the
    packages that deploy installed go; files that it replaced are put back as they were; packages that were there
    before, and those that something else needs, stay. The pool's data stays unless --wipe-storage is given.

    \b
    Examples:
      appliance reset --limit edge1
      appliance reset --yes -o json
      appliance reset --wipe-storage
    """
    hosts = load_inventory(inventory, limit)
    if not yes and not sys.stdin.isatty():
        raise UsageError(
            "reset removes pods, packages and configuration, and there is no terminal to ask on",
            cure="look at the hosts first, then give --yes",
        )
    wanted = {"casemate_wipe_storage": wipe_storage}
    if not yes:
        with renderer(output, dry=True) as show:
            outcome = run_playbook("reset", hosts, verb="reset", on_event=show, check=True, extra_vars=wanted)
        if exit_code(outcome) == EXIT_FAILED:
            sys.exit(EXIT_FAILED)
        affected = [h.name for h in outcome.hosts.values() if h.changed]
        if not affected:
            sys.exit(exit_code(outcome))
        if not click.confirm(f"Remove all of this from {', '.join(affected)}?", err=True):
            click.echo("nothing was removed", err=True)
            sys.exit(EXIT_FAILED)
    with renderer(output) as show:
        outcome = run_playbook("reset", hosts, verb="reset", on_event=show, extra_vars=wanted)
    sys.exit(exit_code(outcome))
