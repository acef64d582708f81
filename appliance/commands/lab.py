"""`appliance lab`: evaluation hosts on this machine."""

import os

import click

from appliance.commands.common import output_option, print_json, progress
from appliance.lab import image, manage, state


@click.group("lab")
def command() -> None:
    """Make and remove hosts to try Casemate on, here on this machine (needs root).

    Each host has its own systemd, network namespace, address and disk. `--kind qemu` gives hosts their own
    kernel too. With hosts up, every verb works on them without `-i`: inventories/lab asks the lab.

    \b
    Examples:
      appliance lab up
      appliance lab up --hosts 3 --release trixie
      appliance lab shell lab1 -- systemctl status containerd
      appliance lab down
    """


@command.command("up")
@click.option("--hosts", type=click.IntRange(1, 50), default=1, show_default=True, help="How many: lab1, lab2, ...")
@click.option("--name", "names", multiple=True, help="A host of this name instead; may be given again.")
@click.option("--release", type=click.Choice(list(image.RELEASES)), default="bookworm", show_default=True)
@click.option("--kind", type=click.Choice(["nspawn", "qemu"]), default="nspawn", show_default=True)
@click.option("--disk", "disk_mib", type=click.IntRange(256), default=8192, show_default=True, help="Data disk, MiB.")
@click.option("--memory", "memory_mib", type=click.IntRange(0), default=0, help="Memory limit, MiB.  [default: none]")
@output_option
def up(names: tuple, hosts: int, kind: str, release: str, disk_mib: int, memory_mib: int, output: str) -> None:
    """Make and boot lab hosts. Hosts that are there already are left as they are."""
    wanted = list(names) or [f"lab{n}" for n in range(1, hosts + 1)]
    manage.up(wanted, kind=kind, release=release, disk_mib=disk_mib, memory_mib=memory_mib, progress=progress)
    _show(output)
    progress(f"\ninventory for plain Ansible: {state.inventory_path()}")


@command.command("down")
@click.argument("names", nargs=-1)
@click.option("--purge-cache", is_flag=True, help="Remove the cached base images too.")
def down(names: tuple, purge_cache: bool) -> None:
    """Remove lab hosts (all, or NAMES) and everything that was made for them."""
    removed = manage.down(list(names) or None, progress=progress)
    if purge_cache:
        manage.purge_cache()
    progress(f"removed {', '.join(removed)}" if removed else "there are no lab hosts")


@command.command("list")
@output_option
def list_hosts(output: str) -> None:
    """Show the lab's hosts."""
    _show(output)


@command.command("shell", context_settings={"ignore_unknown_options": True})
@click.argument("host")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
def shell(host: str, argv: tuple) -> None:
    """Open a shell on HOST, or run `-- COMMAND` there, passing on its output and exit code."""
    words = manage.shell(host, list(argv))
    os.execvp(words[0], words)  # noqa: S606  an interactive shell needs our terminal, not a copy of it


def _show(output: str) -> None:
    rows = manage.listing()
    if output == "json":
        print_json({"hosts": rows})
        return
    if not rows:
        click.echo("no lab hosts; make one with: appliance lab up")
        return
    click.echo(f"{'NAME':<20} {'KIND':<7} {'RELEASE':<9} {'ADDRESS':<13} STATE")
    for row in rows:
        click.echo(f"{row['name']:<20} {row['kind']:<7} {row['release']:<9} {row['ip']:<13} {row['state']}")
