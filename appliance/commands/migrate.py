"""`appliance migrate`: move pods with their volumes to another host."""

import sys

import click

from appliance.commands.backup import size
from appliance.commands.common import (
    inventory_option,
    load_inventory,
    output_option,
    print_json,
    progress,
    results_console,
    yes_option,
)
from appliance.errors import EXIT_FAILED, EXIT_OK, UsageError
from appliance.inventory import Host
from appliance.migration import Migration, Wanted


@click.command("migrate")
@inventory_option
@output_option
@yes_option
@click.option("--from", "source", required=True, metavar="HOST", help="Where the pods are.")
@click.option("--to", "targets", required=True, multiple=True, metavar="HOST", help="Where they go; may be repeated.")
@click.option("--pod", "pods", multiple=True, metavar="NAME", help="This pod, with all that it uses.")
@click.option("--select", "selector", default="", metavar="LABELS",
              help="Pods with these labels, as in app=shop,tier!=cache.")  # fmt: skip
@click.option("--exclude-pod", "exclude_pods", multiple=True, metavar="NAME", help="Leave this pod.")
@click.option("--keep", is_flag=True, help="Leave the pods where they are, too: the targets get a copy.")
@click.option("--timeout", "seconds", default=300, show_default=True, metavar="SECONDS",
              help="How long pods may take to be ready on a target.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be moved, and what is in the way.")
def command(
    inventory: tuple, output: str, yes: bool, source: str, targets: tuple[str, ...], pods: tuple[str, ...],
    selector: str, exclude_pods: tuple[str, ...], keep: bool, seconds: int, dry_run: bool,
) -> None:  # fmt: skip
    """Move pods, with their volumes, ConfigMaps, Secrets and images, to another host; all, or what is selected.

    Volumes are copied while the pods run, on btrfs pools; then the pods are stopped, what has changed since is copied,
    and they start on the target. Only when they are ready there does the source let go of them; what they had stays
    below /var/lib/casemate/pool/replaced. Whatever fails before, the pods run on where they were.

    The hosts need no way to each other: everything goes through this machine.

    \b
    Examples:
      appliance migrate --from edge1 --to edge2 --select app=shop --dry-run
      appliance migrate --from edge1 --to edge2 --select app=shop
      appliance migrate --from edge1 --to edge2 --to edge3 --pod web --keep
    """
    hosts = {host.name: host for host in load_inventory(inventory, None).hosts}
    migration = Migration(
        _host(hosts, source), [_host(hosts, name) for name in dict.fromkeys(targets)],
        Wanted(pods, selector, exclude_pods), keep, seconds, progress,
    )  # fmt: skip
    if source in targets:
        raise UsageError(f"{source} is where the pods are already", place="--to", cure="name another host")
    if not yes or dry_run:
        plan = migration.plan()
        if dry_run:
            _show(plan, output, "would move")
            sys.exit(EXIT_FAILED if plan.get("problems") else EXIT_OK)
        if not sys.stdin.isatty():
            raise UsageError("migrate stops pods for a moment, and there is no terminal to ask on", cure="give --yes")
        _show(plan, "text", "would move")
        if plan.get("problems"):
            sys.exit(EXIT_FAILED)
        if not click.confirm("Migrate?", err=True, default=False):
            sys.exit(EXIT_OK)
    _show(migration.move(), output, "moved")


def _host(hosts: dict[str, Host], name: str) -> Host:
    if name not in hosts:
        raise UsageError(f"the inventory has no host {name}", cure=f"there are: {', '.join(hosts)}")
    return hosts[name]


def _show(told: dict, output: str, what: str) -> None:
    if output == "json":
        print_json(told)
        return
    for line in _lines(told, what):
        results_console().print(line, markup=False)


def _lines(told: dict, what: str) -> list[str]:
    to = ", ".join(told["to"])
    lines = []
    for one in told["unconfirmed"]:
        pods = ", ".join(one["pods"])
        if one["left"]:
            lines.append(f"an earlier run was cut off: {pods} moved to {one['host']}, and {told['from']} has let go")
        else:
            lines.append(f"an earlier run was cut off: the copy of {pods} on {one['host']} is put away, and made again")
    if told["done"]:
        return [*lines, "nothing more is selected there"]
    lines.append(f"{'copied' if told['keep'] and what == 'moved' else what} from {told['from']} to {to}:")
    how = "while it runs, then what changed" if told["method"] == "snapshots" else "as files, while it is stopped"
    lines += [f"  pod {name}" for name in told["pods"]]
    for one in told["volumes"]:
        quota = f", quota {size(one['size'])}" if one["size"] else ""
        lines.append(f"  volume {one['name']}  ({size(one['bytes'])}{quota}; {how})")
    lines += [f"  {kind.removesuffix('s')} {name}" for kind, name in told["documents"] if kind != "pods"]
    lines += [f"  image {reference}" for reference in told["images"]]
    lines += [f"  note: {note}" for note in told["notes"]]
    lines += [f"  in the way: {one['host']}: {one['text']}" for one in told["problems"]]
    for one in told.get("rounds", []):
        state = "while running" if one["running"] else "stopped"
        lines.append(f"  round {one['round']}: {size(one['bytes'])} in {one['seconds']:.1f} s, {state}")
    if "downtime" in told:
        lines += [f"  {one['phase']}: {one['seconds']:.1f} s" for one in told["phases"]]
        lines += [f"  what was there: {place}" for place in told["replaced"]]
        lines.append(f"  downtime: {told['downtime']:.1f} s")
    return lines
