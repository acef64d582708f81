"""`appliance lock`: exactly what a deploy would install."""

import sys
from pathlib import Path

import click

from appliance import images, lock
from appliance.commands.common import (
    format_option,
    inventory_option,
    limit_option,
    load_inventory,
    print_json,
    progress,
    results_console,
)
from appliance.errors import EXIT_CHANGES, EXIT_OK
from appliance.files import replace
from appliance.look import ask
from appliance.run import exit_code

_SHOWN = 40  # changes


@click.command("lock")
@inventory_option
@limit_option
@click.option("--output", "file", type=click.Path(dir_okay=False, path_type=Path), default=Path("appliance.lock"),
              show_default=True, metavar="FILE", help="Where the lock is written.")  # fmt: skip
@click.option("--check", is_flag=True, help="Write nothing; exit 3 when a lock made now would differ.")
@format_option
def command(inventory: tuple, limit: str | None, file: Path, check: bool, output: str) -> None:
    """Write down exactly what a deploy installs: every package, artifact and image.

    Each host's own apt resolves it from the host's package sources, as if nothing was installed; nothing is written on
    a host. The same sources give the same lock. Keep the file with the inventory: `deploy --lock` installs that and
    nothing else.

    \b
    Examples:
      appliance lock
      appliance lock -i inventories/fleet --output fleet.lock
      appliance lock --check        (3: the sources have something newer)
    """
    hosts = load_inventory(inventory, limit)
    old = lock.read(file) if file.exists() else None
    progress(f"asking {', '.join(host.name for host in hosts.hosts)} what a deploy installs")
    answers, outcome = ask("lock", hosts, playbook="deploy", verb="lock", tags="lock")
    for answer in answers:
        if "packages" not in answer:
            progress(f"{answer['name']}: {answer['error']}")
    if code := exit_code(outcome):
        sys.exit(code)
    made = lock.make(answers, _digests(answers))
    changes = lock.differences(old, made) if old else None
    if not check:
        replace(file, lock.dump(made).encode())
    result = {"lock": str(file), "id": made["id"], "written": not check, **_totals(made), "changes": changes}
    if output == "json":
        print_json(result)
    else:
        _show(result)
    sys.exit(EXIT_CHANGES if check and (changes is None or changes) else EXIT_OK)


def _digests(answers: list[dict]) -> dict[str, str]:
    found = {}
    for reference in sorted({reference for answer in answers for reference in answer["images"]}):
        progress(f"image {reference}")
        found[reference] = images.digest(reference)
    return found


def _totals(made: dict) -> dict:
    return {
        "release": made["release"],
        "platforms": {
            name: {"packages": len(one["packages"]), "bytes": sum(p["size"] for p in one["packages"].values())}
            for name, one in made["platforms"].items()
        },
        "artifacts": len(made["artifacts"]),
        "images": len(made["images"]),
    }


def _show(result: dict) -> None:
    console = results_console()
    what = "written" if result["written"] else "not written (--check)"
    console.print(f"[bold]{result['lock']}[/]  {what}  lock {result['id']}, release {result['release']}")
    for name, one in result["platforms"].items():
        console.print(f"  {name}: {one['packages']} packages, {one['bytes'] >> 20} MiB")
    console.print(f"  {result['artifacts']} artifacts, {result['images']} images")
    if result["changes"] is None:
        return
    console.print("  nothing changed" if not result["changes"] else f"  {len(result['changes'])} changed:")
    for one in result["changes"][:_SHOWN]:
        place = f" ({one['platform']})" if one["platform"] else ""
        console.print(f"    {one['kind']} {one['name']}{place}: {one['from'] or 'new'} -> {one['to'] or 'gone'}")
    if len(result["changes"]) > _SHOWN:
        console.print(f"    and {len(result['changes']) - _SHOWN} more; see them all with -o json")
