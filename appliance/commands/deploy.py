"""`appliance deploy`: bring hosts to what the inventory declares."""

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
from appliance.run import exit_code, run_playbook


@click.command("deploy")
@target_options
@lock_option
@bundle_option
def command(inventory: tuple, limit: str | None, output: str, lock: Path | None, bundle: Path | None) -> None:
    """Bring the inventory's hosts to what it declares.

    The inventory is validated first, then every host is looked at; only hosts that pass are changed. Running it
    again changes nothing; after a failure it resumes. Files and pods that you did not declare are left alone.

    \b
    Examples:
      appliance deploy
      appliance deploy -i inventories/fleet --limit edge1
      appliance deploy --lock appliance.lock        (exactly these packages)
      appliance deploy --bundle casemate.bundle     (without a network)
      appliance deploy -o json | jq 'select(.event == "failure")'
    """
    hosts = load_inventory(inventory, limit)
    with release_variables(lock, bundle) as release, renderer(output) as show:
        outcome = run_playbook("deploy", hosts, verb="deploy", on_event=show, extra_vars=release)
    sys.exit(exit_code(outcome))
