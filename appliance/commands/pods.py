"""`appliance pods`: the pods on each host, what they use and what they cost."""

import sys
from collections.abc import Iterable

import click
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from appliance.commands.common import load_inventory, print_hanging, print_json, results_console, target_options
from appliance.errors import EXIT_FAILED, EXIT_OK, EXIT_UNREACHABLE
from appliance.reach import POD_PROGRAM, Answer, ask
from appliance.workloads import named, nowhere


@click.command("pods")
@target_options
@click.argument("pod", required=False)
def command(inventory: tuple, limit: str | None, output: str, pod: str | None) -> None:
    """Show the pods on each host, what they use and what they cost, or one POD with its containers and last events.

    USE is what the containers use as they see it: in a microVM, inside the guest. COST is what the host pays for all of
    the pod, its virtual machine included. Processors are those of one second; memory is without idle page cache.

    \b
    Examples:
      appliance pods
      appliance pods demo
      appliance pods --limit edge1 -o json | jq '.hosts[].pods[] | select(.ready | not)'
    """
    answers = ask(load_inventory(inventory, limit).hosts, POD_PROGRAM, "list", "--output=json", "--use")
    if pod is not None:
        if not any(named(answer, pod) for answer in answers):
            raise nowhere(answers, pod)
        for answer in answers:
            answer.value = named(answer, pod)
    if output == "json":
        print_json({"hosts": [_shape(answer) for answer in answers]})
    else:
        show(answers, with_containers=pod is not None)
    unreachable = any(answer.unreachable for answer in answers)
    failed = any(answer.error for answer in answers)
    sys.exit(EXIT_UNREACHABLE if unreachable else EXIT_FAILED if failed else EXIT_OK)


def _shape(answer: Answer) -> dict:
    shape = {"name": answer.host.name, "pods": answer.value or []}
    return shape | ({"error": answer.error} if answer.error else {})


def show(answers: list[Answer], with_containers: bool = False) -> None:
    """Print the hosts' pods as tables, a line for each container below its pod's where wanted."""
    console = results_console()
    for answer in answers:
        console.print(f"[bold]{answer.host.name}[/]")
        if answer.error:
            console.print(f"  {answer.error}", style="red", markup=False)
        elif not answer.value:
            console.print("  no pods", style="dim")
        else:
            console.print(Padding(_table(answer.value, with_containers), (0, 0, 0, 2), expand=False))
            for pod in answer.value:
                if pod["reason"]:
                    print_hanging(console, f"[yellow]{pod['name']}[/]", Text(pod["reason"]))
                if with_containers and pod["events"]:
                    console.print()
                    console.print(Padding(_events(pod["events"]), (0, 0, 0, 2), expand=False))
        console.print()


def _table(pods: list[dict], with_containers: bool) -> Table:
    """One pod of interest shows more than fits beside many."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("POD", "RUNTIME", "STATE", *(["ADDRESS"] if with_containers else [])):
        table.add_column(heading, no_wrap=True)
    for heading in ("RESTARTS", "USE CPU", "MEMORY", "COST CPU", "MEMORY"):
        table.add_column(heading, no_wrap=True, justify="right")
    for pod in pods:
        containers = pod["containers"] or {}
        address = [pod["ip"] or "-"] if with_containers else []
        figures = [*_figures(_sum(containers.values()) if containers else None), *_figures(pod["host"])]
        table.add_row(pod["name"], pod["runtime"] or "-", _state(pod), *address, str(pod["restarts"]), *figures)
        for name, one in containers.items() if with_containers else ():
            table.add_row(f"  [dim]{name}[/]", *[""] * 4, *_figures(one), "", "")
    return table


def _events(events: list[dict]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("LAST SEEN", "EVENT", ""):
        table.add_column(heading, no_wrap=heading != "")
    for event in events:
        age = _age(event["age_s"]) + (f" (x{event['count']})" if event["count"] > 1 else "")
        style = "yellow" if event["type"] == "Warning" else ""
        table.add_row(age, Text(event["reason"], style), Text(event["message"]))
    return table


def _age(seconds: int) -> str:
    """A time span as kubectl writes it, in its largest unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _state(pod: dict) -> str:
    if pod["ready"]:
        return "[green]ready[/]"
    if pod["state"] == "succeeded":
        return "succeeded"
    return "[red]not ready[/]" if pod["state"] == "running" else f"[red]{pod['state']}[/]"


def _sum(uses: Iterable[dict]) -> dict:
    uses = list(uses)
    return {key: sum(use[key] for use in uses) for key in ("cpu", "working_set_bytes")}


def _figures(use: dict | None) -> tuple[str, str]:
    """Processors and memory as a person reads them; a dash for what nobody can say."""
    if not use:
        return "-", "-"
    return f"{use['cpu']:.2f}", f"{use['working_set_bytes'] / (1 << 20):.0f} MiB"
