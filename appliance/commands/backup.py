"""`appliance backup`: make backups of hosts, look at them, check them, keep as many as the policy says."""

import re
import sys
import time
from collections.abc import Callable

import click
from rich.padding import Padding
from rich.text import Text

from appliance import reach
from appliance.commands.common import (
    load_inventory,
    print_json,
    results_console,
    table,
    target_options,
    tell,
    yes_option,
)
from appliance.errors import UsageError

PROGRAM = "/usr/lib/casemate/bin/casemate-backup"
_PERIODS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}


class Duration(click.ParamType):
    """A time such as 12h, 30d or 8w, in seconds."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([1-9]\d{0,4})([hdw])", str(value))
        if not found:
            self.fail(f"{value!r} is no time such as 12h, 30d or 8w", param, ctx)
        return int(found[1]) * _SECONDS[found[2]]


def filter_options(command: Callable) -> Callable:
    """What a backup or a restore is about; nothing is everything."""
    for option in (
        click.option("--exclude-volume", multiple=True, metavar="NAME", help="Leave this volume out."),
        click.option("--exclude-pod", multiple=True, metavar="NAME", help="Leave this pod and its volumes out."),
        click.option("--volume", multiple=True, metavar="NAME", help="This volume."),
        click.option("--select", "selector", default="", metavar="LABELS",
                     help="Pods with these labels, as in app=shop,tier!=cache."),
        click.option("--pod", multiple=True, metavar="NAME", help="This pod, with all that it uses."),
    ):  # fmt: skip
        command = option(command)
    return command


def filter_words(pod: tuple, selector: str, volume: tuple, exclude_pod: tuple, exclude_volume: tuple) -> list[str]:
    """The same for `casemate-backup`."""
    named = (("--pod", pod), ("--volume", volume), ("--exclude-pod", exclude_pod), ("--exclude-volume", exclude_volume))
    words = [word for option, names in named for name in names for word in (option, name)]
    return words + (["--selector", selector] if selector else [])


@click.group("backup")
def command() -> None:
    """Save hosts' pods, volumes and configuration, and look at what was saved.

    Where backups go and how many are kept is declared in the inventory: backup_repository and the rest of role backup.

    \b
    Examples:
      appliance backup now
      appliance backup status
      appliance backup list
      appliance backup verify --limit edge1
    """


@command.command("now")
@target_options
@filter_options
@click.option(
    "--ttl",
    type=Duration(),
    default=0,
    metavar="TIME",
    help="Keep it for so long (12h, 30d, 8w), whatever backup_keep says.",
)
def now(inventory: tuple, limit: str | None, output: str, ttl: int, **wanted: object) -> None:  # fmt: skip
    """Make a backup of each host, now; of all of it, or of what is selected.

    \b
    Examples:
      appliance backup now
      appliance backup now --select app=shop
      appliance backup now --limit edge1 --exclude-volume scratch
      appliance backup now --ttl 30d          (before something risky)
    """
    words = [*filter_words(**wanted), *(["--ttl", str(ttl)] if ttl else [])]
    _show(_ask(inventory, limit, "now", *words), output, _made)


@command.command("list")
@target_options
def list_(inventory: tuple, limit: str | None, output: str) -> None:
    """The hosts' backups, oldest first, and how the last run ended.

    \b
    Example:
      appliance backup list -o json | jq '.hosts[] | [.name, .last_good.ended]'
    """
    answers = _ask(inventory, limit, "list", quiet=True)
    if output == "json":
        _json(answers)
    for answer in [] if output == "json" else answers:
        console = results_console()
        told = answer.value or {"repository": "", "backups": [], "last": None}
        console.print(f"[bold]{answer.host.name}[/]  {told['repository']}")
        if answer.error:
            console.print(f"  {answer.error}", style="red", markup=False)
        if told["backups"]:
            rows = table("BACKUP", "MADE", "OF", "SIZE", "NEW", "TOOK", "KEPT UNTIL")
            for one in told["backups"]:
                rows.add_row(
                    one["id"], one["time"][:16].replace("T", " "), "everything" if one["everything"] else "a part",
                    *("-" if one[key] is None else size(one[key]) for key in ("bytes", "added")),
                    "-" if one["seconds"] is None else f"{one['seconds']:.0f} s",
                    moment(one["until"]) if one["until"] else "backup_keep decides",
                )  # fmt: skip
            console.print(Padding(rows, (0, 0, 0, 2), expand=False))
        if not told["backups"] and not answer.error:
            console.print("  no backup yet: appliance backup now", style="dim")
        if told["last"] and not told["last"]["ok"]:
            console.print(
                f"  the last run, {moment(told['last']['ended'])}, failed: {told['last']['error']}",
                style="red",
                markup=False,
            )
    sys.exit(reach.exit_code(answers))


@command.command("status")
@target_options
def status(inventory: tuple, limit: str | None, output: str) -> None:
    """How backups stand, a line for each host: what runs now and how far it is, the last good one, the next.

    
    Examples:
      appliance backup status
      watch appliance backup status
      appliance backup status -o json | jq '.hosts[] | [.name, .last_good.ended]'
    """
    answers = _ask(inventory, limit, "status", quiet=True)
    if output == "json":
        _json(answers)
        sys.exit(reach.exit_code(answers))
    rows = table("HOST", "NOW", "LAST GOOD", "SIZE", "NEW", "TOOK", "VERIFIED", "NEXT", "")
    for answer in answers:
        rows.add_row(answer.host.name, *_standing(answer.value or {}), Text(_trouble(answer), style="red"))
    results_console().print(rows)
    sys.exit(reach.exit_code(answers))


def _standing(told: dict) -> list[str]:
    good, phase = told.get("last_good"), told.get("phase", "idle")
    percent = f" {told['percent']} %" if told.get("percent") else ""
    sizes = [size(good["bytes"]), size(good["added"]), f"{good['ended'] - good['began']:.0f} s"] if good else ["-"] * 3
    verified, following = told.get("verified"), told.get("next")
    return [
        phase + percent, moment(good["ended"]) if good else "never", *sizes,
        moment(verified) if verified else "never", moment(following) if following else "by hand",
    ]  # fmt: skip


def _trouble(answer: reach.Answer) -> str:
    if answer.error:
        return answer.error.removeprefix("casemate-backup: ")
    last = answer.value.get("last") or {}
    if last and not last["ok"]:
        return f"the last run failed: {last['error']}"
    good = answer.value.get("last_good")
    if good and time.time() - good["ended"] > answer.value["max_age_hours"] * 3600:
        return f"older than {answer.value['max_age_hours']} hours"
    return ""


@command.command("schedule")
@target_options
def schedule(inventory: tuple, limit: str | None, output: str) -> None:
    """When each host is saved and what is kept, as its inventory says (backup_schedule, backup_keep).

    
    Example:
      appliance backup schedule
    """
    answers = _ask(inventory, limit, "status", quiet=True)
    if output == "json":
        _json(answers)
        sys.exit(reach.exit_code(answers))
    rows = table("HOST", "SCHEDULE", "NEXT", "KEEPS", "REPOSITORY", "")
    for answer in answers:
        told = answer.value or {"schedule": "", "keep": {}, "repository": ""}
        keeps = ", ".join(f"{told['keep'][name]} {name}" for name in _PERIODS if name in told["keep"])
        following = moment(told["next"]) if told.get("next") else "-"
        error = Text(answer.error.removeprefix("casemate-backup: "), style="red")
        rows.add_row(answer.host.name, told["schedule"] or "by hand", following, keeps, told["repository"], error)
    results_console().print(rows)
    sys.exit(reach.exit_code(answers))


@command.command("show")
@target_options
@click.argument("backup", default="latest")
def show(inventory: tuple, limit: str | None, output: str, backup: str) -> None:
    """What is in a BACKUP: pods, volumes, images, and of which host and release it is.

    \b
    Example:
      appliance backup show 4f1d2c3a --limit edge1
    """

    def words(told: dict) -> str:
        lines = [
            f"{told['id']}  {told['taken']}  host {told['host']}, release {told['release']}, {told['distribution']}"
        ]
        for kind in ("pods", "volumes"):
            lines.append(f"  {kind}: {', '.join(one['name'] for one in told[kind]) or 'none'}")
        lines += [f"  {kind}: {', '.join(told[kind]) or 'none'}" for kind in ("configmaps", "secrets")]
        return "\n".join([*lines, f"  images: {', '.join(one['reference'] for one in told['images']) or 'none'}"])

    _show(_ask(inventory, limit, "show", "--snapshot", backup, quiet=True), output, words)


@command.command("verify")
@target_options
@click.option("--part", default="", metavar="N%", help="Read only so much of the data, chosen by chance.")
def verify(inventory: tuple, limit: str | None, output: str, part: str) -> None:
    """Read hosts' repositories and compare all that is in them with its checksums.

    \b
    Examples:
      appliance backup verify
      appliance backup verify --part 10%
    """
    _show(_ask(inventory, limit, "verify", *(["--part", part] if part else [])), output, lambda told: "sound")


@command.command("prune")
@target_options
@yes_option
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def prune(inventory: tuple, limit: str | None, output: str, yes: bool, dry_run: bool) -> None:
    """Remove the backups that backup_keep does not keep, and free their space. The last one of each host stays.

    \b
    Example:
      appliance backup prune --dry-run
    """
    if not dry_run and not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                "prune removes backups, and there is no terminal to ask on", cure="give --yes, or --dry-run"
            )
        click.confirm("Remove what the policy does not keep?", err=True, abort=True)
    answers = _ask(inventory, limit, "prune", *(["--dry-run"] if dry_run else []))
    gone = "would remove" if dry_run else "removed"
    _show(answers, output, lambda told: f"keeps {len(told['kept'])}, {gone} {', '.join(told['removed']) or 'none'}")


def _made(told: dict) -> str:
    of = "" if told["consistent"] else "; each file as it was when it was read (the pool is no btrfs)"
    seconds = told["ended"] - told["began"]
    return f"backup {told['id']}: {size(told['bytes'])}, {size(told['added'])} new, {seconds:.0f} s{of}"


def moment(seconds: float) -> str:
    """A time for people, this machine's."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _ask(inventory: tuple, limit: str | None, *words: str, quiet: bool = False) -> list[reach.Answer]:
    hosts = load_inventory(inventory, limit).hosts
    return reach.ask(hosts, PROGRAM, *words, heard=(lambda host, line: None) if quiet else tell)


def _show(answers: list[reach.Answer], output: str, words: Callable[[dict], str]) -> None:
    if output == "json":
        _json(answers)
    else:
        for answer in answers:
            state, style = ("failed", "red") if answer.error else ("done", "green")
            text = answer.error.removeprefix("casemate-backup: ") or words(answer.value)
            results_console().print(f"[{style}]{state:<7}[/] {answer.host.name:<20} ", end="")
            results_console().print(text, markup=False)
    sys.exit(reach.exit_code(answers))


def _json(answers: list[reach.Answer]) -> None:
    errors = [{"error": one.error.removeprefix("casemate-backup: ")} if one.error else {} for one in answers]
    print_json({"hosts": [{"name": one.host.name, **(one.value or {}), **error}
                          for one, error in zip(answers, errors, strict=True)]})  # fmt: skip
