"""`appliance logs`: what a pod's containers print."""

import os

import click

from appliance.commands.common import inventory_option, limit_option, load_inventory
from appliance.reach import POD_PROGRAM, argv
from appliance.workloads import host_of


@click.command("logs")
@inventory_option
@limit_option
@click.option("-f", "--follow", is_flag=True, help="Go on, over restarts, until the container has ended for good.")
@click.option("--tail", type=click.IntRange(0), metavar="LINES", help="Only the last lines.")
@click.option("--since", metavar="WHEN", help="Only what is newer: 90s, 5m, 2h, 1d, or a date and time.")
@click.option("-c", "--container", metavar="NAME", help="Which container.  [default: the first that the pod declares]")
@click.option("-p", "--previous", is_flag=True, help="The log before the last restart.")
@click.option("--timestamps", is_flag=True, help="Begin each line with its time.")
@click.argument("pod")
def command(
    inventory: tuple,
    limit: str | None,
    pod: str,
    follow: bool,
    tail: int | None,
    since: str | None,
    container: str | None,
    previous: bool,
    timestamps: bool,
) -> None:
    """Print the log of a POD's container.

    POD is NAME or NAMESPACE/NAME; its host is looked for in the inventory.

    \b
    Examples:
      appliance logs demo
      appliance logs -f --tail 20 demo
      appliance logs --limit edge1 -c web --since 10m shop
    """
    host = host_of(pod, load_inventory(inventory, limit))
    words = [POD_PROGRAM, "logs"]
    words += [
        option
        for option, given in (("--follow", follow), ("--previous", previous), ("--timestamps", timestamps))
        if given
    ]
    for option, value in (("--tail", tail), ("--since", since), ("--container", container)):
        words += [] if value is None else [f"{option}={value}"]
    program = argv(host, [*words, "--", pod])
    os.execvp(program[0], program)  # noqa: S606  its output, its end and Ctrl-C are ours
