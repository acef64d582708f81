"""What the verbs share: options, output, and how an error is shown."""

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import click

from appliance.errors import CasemateError

inventory_option = click.option(
    "-i", "--inventory", "inventory", multiple=True, type=click.Path(path_type=Path), metavar="INVENTORY",
    help="Inventory file or directory; may be given again.  [default: inventories/lab]",
)  # fmt: skip
limit_option = click.option("--limit", metavar="PATTERN", help="Only these hosts (an Ansible host pattern).")
output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="How results are printed.",
)  # fmt: skip
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def target_options(command: Callable) -> Callable:
    """The options of every verb that works on an inventory's hosts."""
    for option in (output_option, limit_option, inventory_option):
        command = option(command)
    return command


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
