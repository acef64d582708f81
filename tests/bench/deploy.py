"""Deploy on a bare lab host against a shell script that does the same by hand, and the price of a no-op deploy.

Both sides in one run, in turn, on fresh hosts of the same base image: `python -m tests.bench deploy --runs 3`.
"""

import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import yaml

from appliance.archive import node_archive
from appliance.content import content
from appliance.lab import manage, state

OURS, BY_HAND = "bench-ours", "bench-hand"


def run(runs: int, release: str = "bookworm") -> dict:
    """Measure `runs` times. Returns seconds per run, medians, the ratio, and the no-op's time by phase."""
    ours, by_hand, no_op, phases = [], [], [], {}
    try:
        for number in range(runs):
            manage.up([OURS, BY_HAND], release=release, disk_mib=4096)
            say(f"run {number + 1} of {runs}: appliance deploy")
            seconds, events = deploy()
            ours.append(seconds)
            files = [f for e in events if e["event"] == "change" for f in e.get("files", [])]
            say(f"  {seconds:.1f} s; the same by hand")
            by_hand.append(by_hand_seconds(files))
            say(f"  {by_hand[-1]:.1f} s; deploy again")
            seconds, events = deploy()
            changed = events[-1]["hosts"][0]["changed"]
            if changed:
                raise SystemExit(f"the second deploy changed {changed} things: no no-op to measure")
            no_op.append(seconds)
            phases = by_phase(events)
            say(f"  {seconds:.1f} s")
            manage.down([OURS, BY_HAND])
    finally:
        left = [h.name for h in state.load_all() if h.name in (OURS, BY_HAND)]
        if left:
            manage.down(left)
    return {
        "deploy_s": rounded(ours),
        "by_hand_s": rounded(by_hand),
        "ratio": round(statistics.median(ours) / statistics.median(by_hand), 2),
        "no_op_s": rounded(no_op),
        "no_op_median_s": round(statistics.median(no_op), 1),
        "no_op_by_phase_s": phases,
    }


def deploy() -> tuple[float, list[dict]]:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "deploy", "--limit", OURS, "-o", "json"], capture_output=True, text=True
    )
    seconds = time.monotonic() - began
    events = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode != 0:
        raise SystemExit(f"deploy failed: {[e for e in events if e['event'] == 'failure']} {done.stderr}")
    return seconds, events


def by_hand_seconds(files: list[str]) -> float:
    """Time the script in its host, with the very files that `deploy` wrote in the other."""
    source, host = state.load(OURS), state.load(BY_HAND)
    kit = host.root / "root/by-hand"
    kit.mkdir()
    shutil.copy(node_archive()["path"], kit / "node.pyz")
    with tarfile.open(kit / "files.tar", "w") as archive:
        for file in files:
            archive.add(source.root / file.lstrip("/"), arcname=file.lstrip("/"))
    (kit / "packages").write_text("\n".join(packages()) + "\n")
    defaults = yaml.safe_load((content() / "roles/storage/defaults/main.yml").read_text())
    (kit / "subvolumes").write_text("\n".join(defaults["storage_subvolumes"]) + "\n")
    shutil.copy(Path(__file__).with_name("by_hand.sh"), kit)
    argv = manage.shell(BY_HAND, ["sh", "/root/by-hand/by_hand.sh", host.vars["storage_device"]])
    began = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"by hand failed: {done.stderr[-2000:]}")
    return time.monotonic() - began


def packages() -> list[str]:
    """What role base installs by default: every role's `<role>_packages`."""
    found = set()
    for defaults in (content() / "roles").glob("*/defaults/main.yml"):
        for name, value in (yaml.safe_load(defaults.read_text()) or {}).items():
            if name.endswith("_packages"):
                found.update(value)
    return sorted(found)


def by_phase(events: list[dict]) -> dict[str, float]:
    """Seconds from each phase's beginning to the next one's; `start` is before the first (Ansible, inventory)."""
    marks = [("start", 0.0)] + [(e["name"], e["time"]) for e in events if e["event"] == "phase"]
    marks.append(("end", events[-1]["time"]))
    spent: dict[str, float] = {}
    for (name, begin), (_, end) in itertools.pairwise(marks):
        spent[name] = round(spent.get(name, 0) + end - begin, 2)
    return spent


def rounded(values: list[float]) -> list[float]:
    return [round(v, 1) for v in values]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
