"""What `./quickstart` does once the environment is there: hosts, deploy, wait for the demo, show it."""

import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import click

from appliance.cli import finish
from appliance.commands.common import load_inventory, progress
from appliance.commands.status import show
from appliance.errors import EXIT_OK, CasemateError
from appliance.inventory import Host
from appliance.lab import image, manage
from appliance.look import ask
from appliance.render import People
from appliance.run import exit_code, run_playbook

ANSWER_SECONDS = 60
WHAT_HERE_DOES = """\
This deploys Casemate to this very machine: containerd, QEMU, Prometheus and the node exporter from the
distribution, the node programs, a storage pool in a directory, and a demo pod on port 8080.
`.venv/bin/appliance plan -i inventories/single` shows each change; `appliance reset` takes them back."""


@click.command()
@click.option("--release", type=click.Choice(list(image.RELEASES)), default="bookworm")
@click.option("--hosts", type=click.IntRange(1, 50), default=1)
@click.option("--kind", type=click.Choice(list(manage.NEEDS)), default="nspawn")
@click.option("--here", is_flag=True)
@click.option("--yes", is_flag=True)
def quickstart(release: str, hosts: int, kind: str, here: bool, yes: bool) -> None:
    """See `./quickstart --help`."""
    began = time.monotonic()
    if here:
        _confirm(yes)
        inventory, named = load_inventory((Path("inventories/single"),), None), " -i inventories/single"
    else:
        names = [f"lab{n}" for n in range(1, hosts + 1)]
        manage.up(names, kind=kind, release=release, progress=progress)
        inventory, named = load_inventory((), ",".join(names)), ""
    with People() as view:
        outcome = run_playbook("deploy", inventory, verb="deploy", on_event=view)
    if exit_code(outcome) != EXIT_OK:
        progress(f"\nCure what is said above and run the same again; more: .venv/bin/appliance doctor{named}")
        sys.exit(exit_code(outcome))
    answers, _ = ask("status", inventory)
    addresses = [_address(host) for host in inventory.hosts]
    kernels = [_wait_for(address) for address in addresses]
    click.echo()
    show(answers)
    for address, kernel in zip(addresses, kernels, strict=True):
        click.echo(f"The demo pod answers at {address} from guest kernel {kernel} (this machine: {_kernel()}).")
    click.echo(f"Ready after {time.monotonic() - began:.0f} s. Try next:\n")
    for line in _next_commands(addresses[0], inventory.hosts[0].name, named):
        click.echo(f"  {line}")


def _confirm(yes: bool) -> None:
    progress(WHAT_HERE_DOES)
    if yes:
        return
    if not sys.stdin.isatty():
        raise CasemateError("--here asks before it changes this machine, and there is no terminal", cure="add --yes")
    click.confirm("Go on?", abort=True, err=True)


def _address(host: Host) -> str:
    """Where the host serves the demo: its published port, on the address that we reach the host by."""
    port = host.vars.get("pods_demo_port", 8080)
    name = host.vars.get("ansible_host", "127.0.0.1")
    return f"http://{name}:{port}/"


def _wait_for(address: str) -> str:
    """The guest kernel that the demo's page names. Raises CasemateError when it does not answer in time."""
    deadline = time.monotonic() + ANSWER_SECONDS
    problem = ""
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310  an http address of ours
                page = answer.read().decode()
            marker = "guest kernel: "
            if marker in page:
                return page.split(marker, 1)[1].split("<")[0].strip()
            problem = "the page names no guest kernel"
        except (urllib.error.URLError, OSError) as error:
            problem = str(error)
        time.sleep(0.5)
    raise CasemateError(
        f"the demo pod does not answer: {problem}", place=address, cure=".venv/bin/appliance doctor says why"
    )


def _kernel() -> str:
    return Path("/proc/sys/kernel/osrelease").read_text().strip()


def _next_commands(address: str, host: str, named: str) -> list[str]:
    commands = [
        f"curl {address}",
        f".venv/bin/appliance status{named}",
        f".venv/bin/appliance plan{named}" if named else f".venv/bin/appliance lab shell {host}",
    ]
    return commands


if __name__ == "__main__":
    finish(quickstart)
