"""`appliance restore`: bring pods and volumes back from a backup."""

import sys

import click

from appliance import reach
from appliance.commands.backup import PROGRAM, filter_options, filter_words, size
from appliance.commands.common import load_inventory, print_json, results_console, target_options, tell, yes_option
from appliance.errors import EXIT_OK, UsageError


@click.command("restore")
@target_options
@yes_option
@click.option("--backup", "snapshot", default="latest", metavar="ID", help="Which one.  [default: the last whole one]")
@click.option(
    "--from", "from_host", default="", metavar="HOST", help="A backup of another host, in the same repository."
)
@filter_options
@click.option("--as", "as_name", default="", metavar="NAME", help="Bring one pod or volume back beside what is there.")
@click.option("--dry-run", is_flag=True, help="Only say what would be replaced.")
def command(
    inventory: tuple, limit: str | None, output: str, yes: bool, snapshot: str, from_host: str, as_name: str,
    dry_run: bool, **wanted: object,
) -> None:  # fmt: skip
    """Bring pods, and the volumes that they use, back from a backup; all of them, or what is selected.

    All is fetched before anything is replaced. Pods that use a volume are stopped while it is exchanged. What was there
    is kept, below /var/lib/casemate/pool/replaced. It ends when the pods are ready.

    \b
    Examples:
      appliance restore --limit edge1 --dry-run
      appliance restore --limit edge1 --pod shop
      appliance restore --limit edge2 --from edge1 --yes       (edge1 is gone)
      appliance restore --limit edge1 --volume orders --as orders-of-monday --backup 4f1d2c3a
    """
    hosts = load_inventory(inventory, limit).hosts
    if len(hosts) != 1:
        raise UsageError(f"restore works on one host, this inventory has {len(hosts)}", cure="--limit HOST")
    words = ["--snapshot", snapshot, *filter_words(**wanted)]
    words += (["--from", from_host] if from_host else []) + (["--as", as_name] if as_name else [])
    if not yes or dry_run:
        (answer,) = reach.ask(hosts, PROGRAM, "restore", *words, "--dry-run")
        if answer.error or dry_run:
            _end(answer, output, "would restore")
        if not sys.stdin.isatty():
            raise UsageError("restore replaces what is there, and there is no terminal to ask on", cure="give --yes")
        _show(answer.value, "would restore")
        if not click.confirm("Restore?", err=True, default=False):
            sys.exit(EXIT_OK)
    (answer,) = reach.ask(hosts, PROGRAM, "restore", *words, heard=tell)
    _end(answer, output, "restored")


def _end(answer: reach.Answer, output: str, what: str) -> None:
    error = answer.error.removeprefix("casemate-backup: ")
    if output == "json":
        print_json({"name": answer.host.name, **(answer.value or {}), **({"error": error} if error else {})})
    elif error:
        results_console().print(f"failed  {answer.host.name}: {error}", style="red", markup=False)
    else:
        _show(answer.value, what)
    sys.exit(reach.exit_code([answer]))


def _show(told: dict, what: str) -> None:
    console = results_console()
    console.print(f"{what} of backup {told['snapshot']} ({told['taken']}, host {told['from']}):", markup=False)
    for one in told["volumes"]:
        notes = [f"quota {size(one['size'])}"] if one["size"] else []
        notes += ["replaces what is there"] if one["replaces"] else []
        notes += [f"stops {', '.join(one['used_by'])} meanwhile"] if one["used_by"] else []
        console.print(f"  volume {_name(one)}" + (f"  ({'; '.join(notes)})" if notes else ""), markup=False)
    for kind in ("pods", "configmaps", "secrets"):
        for one in told[kind]:
            replaces = "  (replaces what is declared)" if one["replaces"] else ""
            console.print(f"  {kind.removesuffix('s')} {_name(one)}{replaces}", markup=False)
    if node := told["edge"]:
        refused = f"  (left out: {node['refused']})" if node["refused"] else ""
        console.print(f"  edge core: identity and database of {node['node']}{refused}", markup=False)
    if told["images"]:
        names = ", ".join(one["reference"] for one in told["images"])
        how = "brought along" if told["with_images"] else "to be pulled when a pod needs them"
        console.print(f"  images that are not here, {how}: {names}", markup=False)
    if "files" in told:
        console.print(f"  compared with the backup: {told['files']} files, {size(told['bytes'])}", markup=False)
    for place in told.get("replaced", []):
        console.print(f"  what was there: {place}", markup=False)


def _name(one: dict) -> str:
    to = one.get("to", one["name"])
    return one["name"] if to == one["name"] else f"{one['name']} as {to}"
