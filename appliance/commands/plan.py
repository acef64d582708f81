"""`appliance plan`: what deploy would change."""

import sys
from pathlib import Path

import click

from appliance.commands.common import (
    bundle_option,
    load_inventory,
    lock_option,
    release_variables,
    renderer,
    target_options,
)
from appliance.errors import EXIT_CHANGES, EXIT_OK
from appliance.run import exit_code, run_playbook


@click.command("plan")
@target_options
@lock_option
@bundle_option
@click.option("--diff", is_flag=True, help="Show what would change within files.")
@click.option("--restart-pods", is_flag=True, help="As upgrade --restart-pods would.")
@click.option("--detailed-exitcode", is_flag=True, help="Exit 3 when there are changes.")
def command(
    inventory: tuple, limit: str | None, output: str, lock: Path | None, bundle: Path | None, diff: bool,
    restart_pods: bool, detailed_exitcode: bool,
) -> None:  # fmt: skip
    """Show what `deploy` would change on each host. Writes nothing.

    \b
    Examples:
      appliance plan
      appliance plan --diff --limit edge1
      appliance plan --detailed-exitcode    (0: nothing to do, 3: changes)
      appliance plan --lock appliance.lock  (what an upgrade to that lock does to what runs)
    """
    hosts = load_inventory(inventory, limit)
    with release_variables(lock, bundle) as release, renderer(output, dry=True, show_diff=diff) as show:
        variables = release | ({"base_restart_pods": True} if restart_pods else {})
        outcome = run_playbook("deploy", hosts, verb="plan", on_event=show, check=True, extra_vars=variables)
    code = exit_code(outcome)
    if code == EXIT_OK and detailed_exitcode and any(h.changed for h in outcome.hosts.values()):
        code = EXIT_CHANGES
    sys.exit(code)
