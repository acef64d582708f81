"""`appliance status`: what runs, in which version, and is it well."""

import sys

import click
from rich.padding import Padding
from rich.text import Text

from appliance.commands.common import (
    load_inventory,
    print_hanging,
    print_json,
    results_console,
    table,
    target_options,
)
from appliance.look import ask
from appliance.run import exit_code

HEALTH_STYLES = {"ok": "green", "degraded": "yellow"}


@click.command("status")
@target_options
def command(inventory: tuple, limit: str | None, output: str) -> None:
    """Show what runs on each host, in which version, and whether it is well.

    Versions are those of the running programs; a microVM's kernel is read from inside the guest.

    \b
    Examples:
      appliance status
      appliance status --limit edge1 -o json | jq '.hosts[].pods[] | [.name, .guest_kernel]'
    """
    hosts = load_inventory(inventory, limit)
    answers, outcome = ask("status", hosts)
    if output == "json":
        print_json({"hosts": [_shape(a) for a in answers]})
    else:
        show(answers)
    sys.exit(exit_code(outcome))


def _shape(answer: dict) -> dict:
    """The documented shape; a host that could not be asked has empty lists and an `error`."""
    return {"release": "", "components": [], "pods": [], **answer}


def show(answers: list[dict]) -> None:
    """Print the hosts' answers as tables."""
    console = results_console()
    for answer in answers:
        style = HEALTH_STYLES.get(answer["health"], "red")
        release = f"  release {answer['release']}" if answer.get("release") else ""
        console.print(f"[bold]{answer['name']}[/]  [{style}]{answer['health']}[/]{release}")
        if answer.get("error"):
            console.print(f"  {answer['error']}", style="red", markup=False)
        if answer.get("components"):
            locked = any(part.get("declared") for part in answer["components"])
            rows = table("COMPONENT", "RUNNING", "INSTALLED", *(["LOCKED"] if locked else []), "STATE")
            for part in answer["components"]:
                note = f" ({part['accelerator']})" if part.get("accelerator") else ""
                note += f", cloud: {part['cloud']}" if part.get("cloud") else ""
                note += ", [yellow]an older program: restart it[/]" if part.get("outdated") else ""
                versions = [part["version"] or "-", part.get("installed") or "-"]
                rows.add_row(part["name"], *versions, *([_locked(part)] if locked else []), part["state"] + note)
            console.print(Padding(rows, (0, 0, 0, 2), expand=False))
        if answer.get("pods"):
            rows = table("POD", "RUNTIME", "READY", "ADDRESS", "GUEST KERNEL", "RESTARTS")
            for pod in answer["pods"]:
                ready = "[green]yes[/]" if pod["ready"] else "[red]no[/]"
                kernel = pod["guest_kernel"] or "(the host's)"
                kernel += " [yellow](outdated)[/]" if pod.get("outdated") else ""
                rows.add_row(pod["name"], pod["runtime"], ready, pod["ip"] or "-", kernel, str(pod["restarts"]))
            console.print(Padding(rows, (0, 0, 0, 2), expand=False))
        for finding in answer.get("findings", []):
            text = Text(f"{finding['evidence']}; see: appliance doctor")
            print_hanging(console, f"[yellow]{finding['id']}[/]", text)
        console.print()


def _locked(part: dict) -> str:
    """What the lock declares, where it is not what is installed."""
    if not part.get("declared"):
        return "-"
    return "same" if part["declared"] == part.get("installed") else f"[yellow]{part['declared']}[/]"
