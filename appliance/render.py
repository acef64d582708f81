"""What a person or a program sees of a run: a live view on a terminal, plain lines elsewhere, or JSON lines."""

import json
import sys
import textwrap
import time
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.text import Text

STATE_STYLES = {
    "ok": "green",
    "changed": "yellow",
    "upgraded": "green",
    "rolled back": "bold red",
    "refused": "bold red",
    "failed": "bold red",
    "unreachable": "bold red",
    "not reached": "dim",
}


_WORTH_SECONDS = 5  # less is not worth an estimate


class JsonLines:
    """Each event as one line on stdout; diffs included."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *exc: object) -> None:
        self._out.flush()

    def __call__(self, event: dict) -> None:
        self._out.write(json.dumps(event, default=str) + "\n")
        self._out.flush()


class People:
    """Phases, hosts, elapsed time and changes as they come; failures in full at the end.

    `dry` words changes as what would be. On a terminal the running task is shown live below the lines.
    """

    def __init__(self, *, dry: bool = False, show_diff: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._dry = dry
        self._diff = show_diff
        self._live: Live | None = None
        self._phase = ""
        self._task = ""
        self._began = time.monotonic()
        self._several = False
        self._failures: list[dict] = []
        self._end: float | None = None  # by earlier runs

    def __enter__(self) -> "People":
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=8, get_renderable=self._running, transient=True)
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, event: dict) -> None:
        getattr(self, f"_on_{event['event']}")(event)

    def _on_start(self, event: dict) -> None:
        self._several = len(event["hosts"]) > 1
        self._print(f"[bold]{event['verb']}[/] on {', '.join(event['hosts'])}")

    def _on_batch(self, event: dict) -> None:
        left = f"  [dim]{_left(event['left'])} for all turns[/]" if "left" in event else ""
        self._print(f"[bold]turn {event['number']} of {event['of']}[/]: {escape(event['hosts'])}{left}")

    def _on_phase(self, event: dict) -> None:
        self._phase = event["name"]
        self._end = time.monotonic() + event["left"] if "left" in event else None
        left = f"  {_left(event['left'])}" if event.get("left", 0) >= _WORTH_SECONDS else ""
        self._print(f"[bold cyan]{self._phase:<11}[/] [dim]{_clock(event['time']):>6}{left}[/]")

    def _on_task(self, event: dict) -> None:
        self._task = event["name"]

    def _on_change(self, event: dict) -> None:
        detail = ", ".join(event.get("files") or event.get("removed") or [])
        detail = detail or (event.get("msg") if self._dry else "") or ""
        verb = "would" if self._dry else "changed"
        line = f"  [yellow]{verb}[/] {self._at(event)}{escape(event['task'])}"
        if event.get("impact"):  # a line each
            self._print(line)
            self._print_indented(str(detail), 4, "dim")
        else:
            self._print(line + (f" [dim]{escape(str(detail))}[/]" if detail else ""))
        if self._diff:
            self._show_diff(event.get("diff"))

    def _on_notice(self, event: dict) -> None:
        self._print_indented(f"{self._at(event)}{event['msg'].strip()}", 2, "cyan")

    def _on_failure(self, event: dict) -> None:
        self._failures.append(event)
        self._print(f"  [bold red]failed[/]  {self._at(event)}{escape(event['task'])}")

    def _on_unreachable(self, event: dict) -> None:
        self._print(f"  [bold red]unreachable[/] {escape(event['host'])}: {escape(event['msg'])}")

    def _on_summary(self, event: dict) -> None:
        for failure in self._failures:
            self._print("")
            where = f"{failure['host']}, {failure['phase']}: {failure['task']}"
            self._print(f"[bold red]{escape(where)}[/]")
            self._print_indented(failure["msg"] or "(no message)", 2)
            self._print(f"  [dim]step: {escape(failure['place'])}[/]")
        self._print("")
        for host in event["hosts"]:
            style = STATE_STYLES[host["state"]]
            changes = f"{host['changed']} {'to change' if self._dry else 'changed'}"
            self._print(f"[{style}]{host['state']:<12}[/] {escape(host['name']):<20} {changes}")
        log = f"; log: {escape(event.get('log', ''))}" if self._failures else ""
        self._print(f"[dim]took {_clock(event['time'])}{log}[/]")

    def _running(self) -> Group:
        now = time.monotonic()
        # what takes longer than it ever did has no estimate any more
        left = f", {_left(self._end - now)}" if self._end and self._end > now else ""
        return Group(
            Spinner("dots", Text(f"{self._phase}: {self._task}  {_clock(now - self._began)}{left}", style="dim"))
        )

    def _at(self, event: dict) -> str:
        return f"{escape(event['host'])}: " if self._several else ""

    def _show_diff(self, diff: object) -> None:
        for part in diff if isinstance(diff, list) else [diff] if diff else []:
            for line in _diff_lines(part):
                style = {"+": "green", "-": "red"}.get(line[:1], "dim")
                self._print_indented(line, 6, style)

    def _print_indented(self, text: str, by: int, style: str = "") -> None:
        self._print(Text(textwrap.indent(text, " " * by), style=style))

    def _print(self, what: object) -> None:
        self._console.print(what, soft_wrap=not self._console.is_terminal)


def _diff_lines(part: dict) -> list[str]:
    import difflib

    if not isinstance(part.get("before"), str) or not isinstance(part.get("after"), str):
        return [str(part.get("prepared", ""))] if part.get("prepared") else []
    headers = (part.get("before_header", "before"), part.get("after_header", "after"))
    lines = difflib.unified_diff(part["before"].splitlines(), part["after"].splitlines(), *headers, lineterm="", n=2)
    return list(lines)


def _left(seconds: float) -> str:
    """An estimate, as rough as it is."""
    if seconds < 60:
        return f"about {max(round(seconds / 5) * 5, 5)} s left"
    return f"about {round(seconds / 60)} min left"


def _clock(seconds: float) -> str:
    return f"{seconds:.1f}s" if seconds < 60 else f"{int(seconds // 60)}m{int(seconds % 60):02d}s"
