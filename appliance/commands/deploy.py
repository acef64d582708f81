"""`appliance deploy`: bring hosts to what the inventory declares."""

import sys

import click

from appliance.commands.common import load_inventory, renderer, target_options
from appliance.run import exit_code, run_playbook


@click.command("deploy")
@target_options
def command(inventory: tuple, limit: str | None, output: str) -> None:
    """Bring the inventory's hosts to what it declares.

    The inventory is validated first, then every host is looked at; only hosts that pass are changed. Running it
    again changes nothing; after a failure it resumes. Files and pods that you did not declare are left alone.

    \b
    Examples:
      appliance deploy
      appliance deploy -i inventories/fleet --limit edge1
      appliance deploy -o json | jq 'select(.event == "failure")'
    """
    hosts = load_inventory(inventory, limit)
    with renderer(output) as show:
        outcome = run_playbook("deploy", hosts, verb="deploy", on_event=show)
    sys.exit(exit_code(outcome))
