"""`casemate-pod`: run, list and remove pods on this host."""

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from . import listing, live, logs, service, settings, state, sync, teardown, units, use
from .cri import Cri
from .cri_model import CriError
from .manifest import MANIFEST_DIRECTORY, ManifestError, load, load_directory
from .names import NoSuchPod
from .spdy import StreamingError

INVALID = service.INVALID


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 failed, 2 bad usage, manifest or pod; exec's: the program's."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return options.function(options)
    except ManifestError as error:
        print(error, file=sys.stderr)
        return INVALID
    except (NoSuchPod, logs.NoLog) as error:
        print(f"casemate-pod: {error}", file=sys.stderr)
        return INVALID
    except (CriError, StreamingError, units.UnitError, PermissionError) as error:
        print(f"casemate-pod: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="casemate-pod", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run one pod and keep it running; the pod outlives this command")
    run.add_argument("manifest", help="a manifest file, or the name of a pod declared in " + str(MANIFEST_DIRECTORY))
    run.set_defaults(function=_run)

    check = commands.add_parser("check", help="say what is wrong with manifest files")
    check.add_argument("manifest", nargs="*", type=Path, help=f"default: all in {MANIFEST_DIRECTORY}")
    check.add_argument("-o", "--output", choices=["text", "json"], default="text")
    check.set_defaults(function=_check)

    list_ = commands.add_parser("list", help="list the pods on this host")
    list_.add_argument("-o", "--output", choices=["text", "json"], default="text")
    list_.add_argument("--use", action="store_true", help="with -o json: also what they use and cost; takes a second")
    list_.set_defaults(function=_list)

    sync_ = commands.add_parser("sync", help="start, replace and remove pods as the manifest directory says")
    sync_.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="then wait for the pods to be ready")
    sync_.add_argument("--for", action="append", dest="names", metavar="NAME", help="wait for these pods, not for all")
    sync_.add_argument("-o", "--output", choices=["text", "json"], default="text")
    sync_.set_defaults(function=_sync)

    remove = commands.add_parser("remove", help="stop a pod, and delete it with its manifest")
    remove.add_argument("name")
    remove.set_defaults(function=_remove)

    exec_ = commands.add_parser("exec", help="run a program in a container; its exit code is passed on")
    _target(exec_)
    exec_.add_argument("-i", "--stdin", action="store_true", help="pass on this command's input")
    exec_.add_argument("-t", "--tty", action="store_true", help="give the program a terminal")
    exec_.add_argument("command", nargs="+", metavar="COMMAND", help="after --")
    exec_.set_defaults(function=_exec)

    attach = commands.add_parser("attach", help="join the main program of a container")
    _target(attach)
    attach.add_argument("-i", "--stdin", action="store_true", help="pass on this command's input")
    attach.set_defaults(function=_attach)

    logs_ = commands.add_parser("logs", help="print a container's log")
    _target(logs_)
    logs_.add_argument("-f", "--follow", action="store_true", help="go on until the container has ended for good")
    logs_.add_argument("--tail", type=int, metavar="LINES", help="only the last lines")
    logs_.add_argument(
        "--since", type=logs.moment, default=0, metavar="WHEN", help="90s, 5m, 2h, 1d or a date and time"
    )
    logs_.add_argument("-p", "--previous", action="store_true", help="the log of the container before the last restart")
    logs_.add_argument("--timestamps", action="store_true", help="begin each line with its time")
    logs_.set_defaults(function=_logs)

    shutdown = commands.add_parser("shutdown", help="stop all pods if the host is going down; for its own unit only")
    shutdown.set_defaults(function=_shutdown)
    return parser


def _target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--container", metavar="NAME", help="default: the first that the pod declares")
    parser.add_argument("pod", metavar="POD", help="NAME or NAMESPACE/NAME")


def _run(options: argparse.Namespace) -> NoReturn:
    service.main([options.manifest])


def _check(options: argparse.Namespace) -> int:
    found: list[ManifestError] = []
    for path in options.manifest:
        try:
            load(path)
        except ManifestError as error:
            found.append(error)
    if not options.manifest:
        found = load_directory()[1]
    if options.output == "json":
        print(json.dumps([{"file": error.source, "problems": error.problems} for error in found]))
        return 0
    for error in found:
        print(error, file=sys.stderr)
    return INVALID if found else 0


def _list(options: argparse.Namespace) -> int:
    values = settings.load()
    cri = Cri(values.socket)
    pods = listing.list_pods(cri, values)
    if options.use:
        use.measure(cri, pods)
    if options.output == "json":
        print(json.dumps(pods))
        return 0
    rows = [("NAME", "RUNTIME", "READY", "STATE", "IP", "RESTARTS", "REASON")]
    for pod in pods:
        ready = "yes" if pod["ready"] else "no"
        rows.append(
            (pod["name"], pod["runtime"], ready, pod["state"], pod["ip"] or "-", str(pod["restarts"]), pod["reason"])
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _sync(options: argparse.Namespace) -> int:
    outcome = sync.sync(settings.load())
    pods = outcome.declared
    if options.names is not None:
        pods = {name: pod for name, pod in pods.items() if name in options.names}
    waiting = listing.wait(pods, options.wait) if options.wait else {}
    report = {
        "started": sorted(outcome.started),
        "removed": sorted(outcome.removed),
        "unusable": [str(error) for error in outcome.errors],
        "problems": [listing.explain(pods[name], known) for name, known in sorted(waiting.items())],
    }
    if options.output == "json":
        print(json.dumps(report))
    else:
        for verb in ("started", "removed"):
            for name in report[verb]:
                print(f"{verb} {name}")
        for problem in report["unusable"] + report["problems"]:
            print(problem, file=sys.stderr)
    return 1 if waiting else 0


def _remove(options: argparse.Namespace) -> int:
    with sync.lock():
        pods, _ = load_directory()
        if options.name in pods:
            Path(pods[options.name].source).unlink(missing_ok=True)
        sync.remove(options.name, settings.load())
    return 0


def _exec(options: argparse.Namespace) -> int:
    cri = Cri(settings.load().socket)
    return live.execute(cri, options.pod, options.container, options.command, stdin=options.stdin, terminal=options.tty)


def _attach(options: argparse.Namespace) -> int:
    cri = Cri(settings.load().socket)
    return live.attach(cri, options.pod, options.container, stdin=options.stdin)


def _logs(options: argparse.Namespace) -> int:
    directories = logs.containers(options.pod)
    name = options.container or live.first_declared(options.pod.rpartition("/")[2], directories)
    if name not in directories:
        there = ", ".join(directories) or "none"
        raise logs.NoLog(f"container {name!r} of pod {options.pod} has no log; these have: {there}")
    choice = logs.Choice(options.tail, options.since, options.previous, options.timestamps)
    try:
        logs.show(directories[name], choice, (lambda: _is_over(options.pod, name)) if options.follow else None)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end
        return 128 + signal.SIGPIPE
    return 0


def _is_over(pod: str, container: str) -> bool:
    """Whether no container of this name will write any more; one that ended and is to be restarted will."""
    if known := state.read_all().get(pod.rpartition("/")[2]):
        return known.state in ("succeeded", "failed")
    with contextlib.suppress(CriError):  # while the engine is down, nobody knows
        return not live.runs(Cri(settings.load().socket), pod, container)
    return False


def _shutdown(_options: argparse.Namespace) -> int:
    if units.host_is_stopping():
        teardown.stop_all(Cri(settings.load().socket))
    return 0
