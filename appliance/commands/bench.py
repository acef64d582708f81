"""`appliance bench`: what pods cost on these hosts, measured there."""

import statistics
import sys
from pathlib import Path

import click
from rich.table import Table

from appliance.commands.common import load_inventory, print_json, progress, results_console, target_options, yes_option
from appliance.errors import EXIT_OK, UsageError
from appliance.look import ask
from appliance.plot import check, draw, label
from appliance.run import exit_code

DEFAULT_RUNS = {"start": 5, "density": 10, "io": 3, "net": 3}
UNITS = {
    "start": ("seconds", ("sandbox", "create", "start", "output", "total", "remove")),
    "density": ("MiB a pod", ("overhead", "guest", "qemu", "supervisor", "stand-in", "shim", "program")),
    "io": ("as named", (
        "write_mib_s", "read_mib_s", "random_read_per_s", "random_write_per_s", "fsync_per_s", "files_per_s")),
    "net": ("as named", ("to_pod_mib_s", "from_pod_mib_s", "round_trip_us")),
}  # fmt: skip
USES = {
    "start": "pods one after the other, {runs} measured on each side",
    "density": "up to {runs} idle pods at a time, while a fifth of the memory stays free",
    "io": "{runs} times 64 MiB in a directory below /var/lib/casemate, on the host and in pods",
    "net": "{runs} times 128 MiB between the host and one pod of each",
}


@click.command("bench")
@click.argument("what", type=click.Choice(list(UNITS)))
@target_options
@yes_option
@click.option("--runs", type=click.IntRange(1, 1000), help="How often; for density, how many pods at most.")
@click.option("--handler", "handlers", multiple=True, metavar="NAME", help="Only this handler; may be given again.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Draw the result as well: an .svg or .png file (needs casemate[plot]).")  # fmt: skip
def command(
    what: str, inventory: tuple, limit: str | None, output: str, yes: bool, runs: int | None, handlers: tuple,
    plot: Path | None,
) -> None:  # fmt: skip
    """Measure pods on the hosts, with every runtime handler there, beside the pods that run.

    \b
    start    from a pod's first call to its program's first output, in phases; microVMs from template and cold
    density  memory of the host that an idle pod takes
    io       a volume in a pod, against the same directory on the host
    net      host to pod and back: throughput, and how long a byte takes

    Says what it will use and asks. Its pods are its own, and gone afterwards, interrupted or not.

    \b
    Examples:
      appliance bench start --plot start.svg
      appliance bench density --runs 20 --handler microvm
      appliance bench io --yes -o json
    """
    hosts = load_inventory(inventory, limit)
    runs = runs or DEFAULT_RUNS[what]
    if plot:
        check(plot)
    answers, outcome = ask("handlers", hosts, playbook="bench", verb="bench")
    if exit_code(outcome) != EXIT_OK:
        _failed(answers)
        sys.exit(exit_code(outcome))
    sides = _sides(what, answers, handlers)
    names = ", ".join(answer["name"] for answer in answers)
    progress(f"bench {what} on {names}: {', '.join(sides)}; {USES[what].format(runs=runs)}")
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("bench makes pods, and there is no terminal to ask on", cure="give --yes")
        if not click.confirm("Begin?", err=True, default=True):
            sys.exit(EXIT_OK)
    results = {answer["name"]: {} for answer in answers}
    for side in sides:
        handler, _, cold = side.partition(", ")
        progress(f"{side} ...")
        words = f"{what} --handler {handler} --runs {runs}" + (" --cold" if cold else "")
        measured, outcome = ask(words, hosts, playbook="bench", verb="bench")
        if exit_code(outcome) != EXIT_OK:
            _failed(measured)
            sys.exit(exit_code(outcome))
        for answer in measured:
            results[answer.pop("name")][side] = answer
    found = {"bench": what, "unit": UNITS[what][0], "runs": runs, "hosts": [
        {"name": a["name"], "machine": a["machine"], "results": {
            side: result | {"median": _medians(result["runs"])} for side, result in results[a["name"]].items()
        }} for a in answers
    ]}  # fmt: skip
    if output == "json":
        print_json(found)
    else:
        _show(found)
    if plot:
        draw(found, UNITS[what][1], plot)
        progress(f"drawn: {plot}")


def _sides(what: str, answers: list[dict], wanted: tuple) -> list[str]:
    """What is compared: each handler that all hosts have, "host" for io, and "microvm, cold" for start."""
    there = sorted(set.intersection(*(set(answer["handlers"]) for answer in answers)))
    if unknown := [handler for handler in wanted if handler not in there]:
        raise UsageError(f"--handler {unknown[0]}: not every host has it", cure=f"known are {', '.join(there)}")
    sides = [handler for handler in there if handler in (wanted or there)]
    if what == "start" and "microvm" in sides:
        sides.append("microvm, cold")
    return ["host", *sides] if what == "io" else sides


def _medians(runs: list[dict]) -> dict[str, float]:
    names = {name for run in runs for name in run}
    return {name: round(statistics.median(run.get(name, 0) for run in runs), 4) for name in sorted(names)}


def _failed(answers: list[dict]) -> None:
    for answer in answers:
        if "error" in answer:
            progress(f"{answer['name']}: {answer['error']}")


def _show(found: dict) -> None:
    console = results_console()
    for host in found["hosts"]:
        machine = host["machine"]
        title = f"{host['name']}: {machine['cpus']} processors, {machine['memory_mib']} MiB, kernel {machine['kernel']}"
        table = Table(
            "", title=title, caption=f"{found['unit']}; median, and from lowest to highest", title_justify="left"
        )
        sides = host["results"]
        for side in sides:
            table.add_column(side, justify="right")
        for name in UNITS[found["bench"]][1]:
            if any(name in run for result in sides.values() for run in result["runs"]):
                cells = [_cell([run.get(name, 0) for run in result["runs"]]) for result in sides.values()]
                table.add_row(label(name), *cells)
        console.print(table)


def _cell(values: list[float]) -> str:
    if not values:
        return "none"
    spread = f"  ({min(values):.4g} to {max(values):.4g})" if len(values) > 1 else ""
    return f"{statistics.median(values):.4g}{spread}"
