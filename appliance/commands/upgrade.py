"""`appliance upgrade`: to another release, or back to what was there."""

import sys
from pathlib import Path

import click

from appliance.commands.common import (
    bundle_option,
    load_inventory,
    lock_option,
    progress,
    release_variables,
    renderer,
    target_options,
    yes_option,
)
from appliance.errors import EXIT_OK, UsageError
from appliance.rollout import exit_code, roll_out
from appliance.run import exit_code as run_exit_code
from appliance.run import run_playbook


@click.command("upgrade")
@target_options
@lock_option
@bundle_option
@yes_option
@click.option("--serial", default="1", show_default=True, metavar="N|N%", help="How many hosts at a time.")
@click.option("--canary/--no-canary", default=True, show_default=True, help="Begin with one host alone.")
@click.option("--max-fail", type=click.IntRange(0), default=0, show_default=True, metavar="N",
              help="Go on with other hosts while no more than this many failed.")  # fmt: skip
@click.option("--restart-pods", is_flag=True, help="Restart microVM pods one by one: they get the new QEMU and guest.")
@click.option("--grace", type=click.IntRange(0), metavar="SECONDS",
              help="How long a host has to stay well before it is committed.  [default: base_grace]")  # fmt: skip
def command(
    inventory: tuple, limit: str | None, output: str, lock: Path | None, bundle: Path | None, yes: bool, serial: str,
    canary: bool, max_fail: int, restart_pods: bool, grace: int | None,
) -> None:  # fmt: skip
    """Bring hosts to the release of a lock or a bundle, each as a transaction.

    Shows what changes and what that does to running pods, and asks. On each host: everything is fetched and looked at,
    what is there is kept, then it is changed in place while pods run on; the host has to be as well as before, and stay
    so. A host that is not, or that loses this run or is booted anew in the middle, goes back to what it had, by itself.

    \b
    Exit codes: 0 done, 5 a host was rolled back, 1 refused or failed, 4 a host is
    unreachable (it goes back by itself if it had begun).

    \b
    Examples:
      appliance upgrade --lock appliance.lock
      appliance upgrade --bundle casemate.bundle --serial 25% --yes
    """
    if not lock and not bundle:
        raise UsageError("upgrade to what?", cure="--lock FILE (see: appliance lock) or --bundle FILE")
    hosts = load_inventory(inventory, limit)
    with release_variables(lock, bundle) as release:
        variables = release | ({"base_grace": grace} if grace is not None else {})
        variables |= {"base_restart_pods": True} if restart_pods else {}
        if not yes:
            _show_and_ask(hosts, variables)
        with renderer(output) as show:
            states = roll_out(hosts, variables, serial=serial, canary=canary, max_fail=max_fail, on_event=show)
    sys.exit(exit_code(states))


def _show_and_ask(hosts, variables: dict) -> None:
    if not sys.stdin.isatty():
        raise UsageError("upgrade changes hosts, and there is no terminal to ask on", cure="give --yes")
    with renderer("text", dry=True) as show:
        outcome = run_playbook("deploy", hosts, verb="plan", on_event=show, check=True, extra_vars=variables)
    if code := run_exit_code(outcome):
        sys.exit(code)
    if not any(host.changed for host in outcome.hosts.values()):
        progress("nothing to do")
        sys.exit(EXIT_OK)
    if not click.confirm("Upgrade?", err=True, default=False):
        sys.exit(EXIT_OK)
