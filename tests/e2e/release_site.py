"""A host whose package sources have two releases, their locks, and what is done to it while it serves."""

import contextlib
import json
import subprocess
import time
from pathlib import Path

from appliance.lab import manage
from tests.conftest import INSIDE, appliance, inside, on_host

# Debian 12 has two versions of each: one of the release, one of its security updates.
OLD = {
    "containerd": ("containerd", "1.6.20~ds1-1+deb12u2"),
    "qemu-system-x86": ("qemu-system-x86 qemu-system-common qemu-system-data", None),
    "linux-image-amd64": ("linux-image-amd64", None),
}
PREFERENCES = "/etc/apt/preferences.d/casemate-test"
WORK = "/tmp/casemate-test"


class Site:
    """One lab host with an old and a new lock; `broken` packages come from a directory on it."""

    def __init__(self, host, directory: Path):
        self.host, self.directory = host, directory

    def older(self) -> dict[str, str]:
        """The lowest version that the sources have, of each package that has two."""
        found = {}
        for name in OLD:
            told = on_host(self.host, "apt-cache", "madison", name)
            versions = sorted({line.split("|")[1].strip() for line in told.splitlines()}, key=_key)
            if len(versions) > 1:
                found[name] = versions[0]
        return found

    def lock(self, name: str, *, old: bool = False, extra: str = "") -> Path:
        """Make a lock of what the sources have now, or of the older versions in them."""
        path = self.directory / f"{name}.lock"
        if old:
            pins = [f"Package: {OLD[one][0]}\nPin: version {version}\nPin-Priority: 1001\n" for one, version in
                    self.older().items()]  # fmt: skip
            on_host(self.host, "sh", "-c", f"cat > {PREFERENCES}", stdin="\n".join(pins))
        try:
            done = self.run("lock", "--output", str(path), "-o", "json", extra=extra)
        finally:
            if old:
                on_host(self.host, "rm", PREFERENCES)
        assert done.returncode == 0, done.stdout + done.stderr
        return path

    def run(self, *words: str, extra: str = "", timeout: float = 900):
        """`appliance` on this host; `extra` is YAML of variables."""
        inventory = ["-i", "inventories/lab"]
        if extra:
            file = self.directory / "extra.yml"
            file.write_text(f"appliance:\n  vars:\n{_indented(extra)}")
            inventory += ["-i", str(file)]
        verb, *rest = words
        return appliance(verb, *inventory, "--limit", self.host.name, *rest, timeout=timeout)

    def release(self) -> str:
        return json.loads(on_host(self.host, "cat", "/etc/casemate/release.json"))["lock"]

    def last_change(self) -> dict:
        return json.loads(on_host(self.host, "cat", "/var/lib/casemate/last-release-change.json"))

    def versions(self, *names: str) -> dict[str, str]:
        told = on_host(self.host, "dpkg-query", "--show", "--showformat=${Package} ${Version}\n", *names)
        return dict(line.split() for line in told.splitlines())

    def running_engine(self) -> str:
        """The SHA-256 of the program that the engine's process runs, which is of one version."""
        return on_host(self.host, "sh", "-c", "sha256sum /proc/$(systemctl show -P MainPID containerd)/exe").split()[0]

    def package(self, name: str, version: str, **content) -> None:
        """Put a package of this version into the host's own source; `content` as tests/inside/package.py says."""
        inside(self.host, "package", name, version, json.dumps(content))

    @contextlib.contextmanager
    def served(self):
        """Ask the five pods all the while; what was seen is in the dict that this gives, at the end."""
        packed = subprocess.run(
            ["tar", "-c", "--exclude=__pycache__", "-C", INSIDE, "."], capture_output=True, check=True
        )
        run = ("at=$(mktemp -d) && trap 'rm -r $at' EXIT && tar -x -C $at && "
               'PYTHONPATH=/usr/lib/casemate/current python3 -B "$at/served.py" watch </dev/null')  # fmt: skip
        argv = manage.shell(self.host.name, ["sh", "-c", run])
        watcher = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        watcher.stdin.write(packed.stdout)
        watcher.stdin.close()
        watcher.stdin = None
        assert watcher.stderr.readline() == b"watching\n"
        seen: dict = {}
        try:
            yield seen
        finally:
            on_host(self.host, "touch", f"{WORK}/over")
            out, err = watcher.communicate(timeout=120)
            assert watcher.returncode == 0, err.decode()
            seen |= json.loads(out)

    def plan(self, lock: Path, *words: str, extra: str = "") -> list[dict]:
        """What `plan` says that a release means for what runs (node/release/impact.py)."""
        done = self.run("plan", "--lock", str(lock), "-o", "json", *words, extra=extra)
        assert done.returncode == 0, done.stdout + done.stderr
        events = [json.loads(line) for line in done.stdout.splitlines()]
        return [line for event in events for line in event.get("impact", [])]

    def observe(self) -> dict:
        """What tests/inside/observe.py sees."""
        return inside(self.host, "observe")

    def pods(self, what: str) -> None:
        inside(self.host, "served", what)


def disagreements(plan: list[dict], before: dict, after: dict, *, committed: bool, besides: tuple = ()) -> list[str]:
    """Where what happened between two observations is not what `plan` said; `besides` are services that others than
    Casemate restarted (a package's own script). A change that was rolled back may do less to what runs than planned,
    and has to leave the very packages that there were."""
    found = []
    own = ("others", "casemate", "guest")  # no packages of the host
    named = {one["component"]: [one["from"], one["to"]] for one in plan if one["component"] not in own}
    for one in plan:
        named |= one["packages"]
    names = before["packages"].keys() | after["packages"].keys()
    changed = {name: [before["packages"].get(name), after["packages"].get(name)] for name in names}
    changed = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}
    if changed != (named if committed else {}):
        found.append(f"packages changed: {changed}, planned: {named}")
    services = {one["component"] for one in plan if one["impact"] == "service"}
    if "casemate" in services:
        services = services - {"casemate"} | {name for name in before["services"] if name.startswith("casemate-pod@")}
    rolled = {pod for one in plan if one["impact"] == "microvms-restart" for pod in one["pods"]} if committed else set()
    services |= {f"casemate-pod@{pod.partition('/')[2]}.service" for pod in rolled}  # with its pod
    restarted = {name for name, there in before["services"].items() if there != after["services"].get(name)}
    if committed and restarted - set(besides) != services - set(besides):
        found.append(f"restarted: {sorted(restarted)}, planned: {sorted(services)}")
    if not committed and (more := restarted - services - set(besides)):
        found.append(f"restarted, and not planned: {sorted(more)}")
    for name, processes in before["pods"].items():
        if (after["pods"].get(name) == processes) == (name in rolled):
            found.append(f"pod {name}: {processes} and then {after['pods'].get(name)}, planned to restart: {rolled}")
    newer = any(one["component"].startswith("qemu-system") for one in plan) and committed
    for name, vm in before["microvms"].items():
        now = after["microvms"].get(name)
        if (now["process"] == vm["process"]) == (name in rolled) or (newer and now["replaced"] == (name in rolled)):
            found.append(f"microVM {name}: {vm} and then {now}, planned to restart: {rolled}")
    if before["boot"] != after["boot"]:
        found.append("booted anew")
    return found


def _key(version: str) -> list:
    """Good enough an order for the few versions that there are."""
    import re

    return [int(part) if part.isdigit() else part for part in re.findall(r"\d+|\D+", version)]


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def until(condition, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not _quietly(condition):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.5)


def _quietly(condition) -> bool:
    try:
        return condition()
    except (subprocess.SubprocessError, AssertionError, OSError):  # a host that is going down or coming up
        return False
