"""`appliance exec`: a program in a pod's container."""

import os
import sys

import click

from appliance.commands.common import inventory_option, limit_option, load_inventory
from appliance.reach import POD_PROGRAM, argv
from appliance.workloads import host_of


@click.command("exec")
@inventory_option
@limit_option
@click.option("-c", "--container", metavar="NAME", help="Which container.  [default: the first that the pod declares]")
@click.option("-t", "-it", "-ti", "--tty", is_flag=True, help="Give COMMAND a terminal: this one.")
@click.argument("pod")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def command(
    inventory: tuple, limit: str | None, container: str | None, tty: bool, pod: str, words: tuple[str, ...]
) -> None:
    """Run a program in a POD's container, passing on its output and exit code.

    POD is NAME or NAMESPACE/NAME; its host is looked for in the inventory. The program gets this command's input,
    unless that is a terminal and --tty is not given.

    \b
    Examples:
      appliance exec demo -- cat /etc/hostname
      appliance exec -it demo -- sh
      appliance exec -c db shop -- psql -U postgres < dump.sql
    """
    host = host_of(pod, load_inventory(inventory, limit))
    options = ["--tty"] if tty else []
    options += ["--stdin"] if tty or not sys.stdin.isatty() else []
    options += [f"--container={container}"] if container else []
    program = argv(host, [POD_PROGRAM, "exec", *options, "--", pod, *words], terminal=tty)
    os.execvp(program[0], program)  # noqa: S606  an interactive program needs our terminal, not a copy of it
