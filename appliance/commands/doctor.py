"""`appliance doctor`: checks with evidence, cause and cure."""

import sys

import click
from rich.markup import escape
from rich.text import Text

from appliance.commands.common import load_inventory, print_hanging, print_json, results_console, target_options
from appliance.errors import EXIT_FAILED, EXIT_OK
from appliance.look import ask
from appliance.run import exit_code

STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


@click.command("doctor")
@target_options
@click.option("--all", "show_all", is_flag=True, help="Show the checks that passed too.")
def command(inventory: tuple, limit: str | None, output: str, show_all: bool) -> None:
    """Check each host and say, for each finding, what was seen, why, and what cures it.

    Exits 1 when a check of severity error fails. Changes nothing.

    \b
    Examples:
      appliance doctor
      appliance doctor --all
      appliance doctor -o json | jq '.hosts[].checks[] | select(.ok | not)'
    """
    hosts = load_inventory(inventory, limit)
    answers, outcome = ask("doctor", hosts)
    if output == "json":
        print_json({"hosts": [{"checks": [], **a} for a in answers]})
    else:
        _show(answers, show_all)
    code = exit_code(outcome)
    broken = any(not c["ok"] and c["severity"] == "error" for a in answers for c in a.get("checks", []))
    sys.exit(EXIT_FAILED if code == EXIT_OK and broken else code)


def _show(answers: list[dict], show_all: bool) -> None:
    console = results_console()
    for answer in answers:
        checks = answer.get("checks", [])
        bad = [c for c in checks if not c["ok"]]
        verdict = f"{len(bad)} with a finding" if bad else "all well"
        said = answer.get("error") or f"{len(checks)} checks, {verdict}"
        console.print(f"[bold]{answer['name']}[/]  {escape(said)}")
        for check in checks if show_all else bad:
            mark, style = ("ok", "green") if check["ok"] else (check["severity"], STYLES[check["severity"]])
            lines = [Text.assemble((check["id"], "bold"), "  ", check["evidence"])]
            lines += [Text.assemble((f"{label}: ", "dim"), check[label]) for label in ("cause", "cure") if check[label]]
            print_hanging(console, f"[{style}]{mark:<8}[/]", *lines)
        console.print()
