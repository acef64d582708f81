"""Runs on an appliance: looks at all the pods whose names begin so, and at what their runners cost; prints JSON.

usage: fleet PREFIX

{"pods": {name: its row of `casemate-pod list`}, "pss_mib": of each runner, "cpu_s": what all runners spend in ten
seconds, "starts": how many pods were being started at the same time, at most, by their journals}
"""

import json
import os
import sys
import time
from pathlib import Path

from declared import journal, pods, show

SECONDS = 10
LATE_US = 300_000  # journald stamps a line when it reads it, which on a busy machine is later than it was written


def pss_mib(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024, 1)


def cpu_s(pids):
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def most_at_once(names):
    """By the journal's own clock, from `starting the sandbox` to the last `Started` after it."""
    moments = []
    for name in names:
        begun, ended = None, None
        for entry in journal(name):
            at = int(entry["__MONOTONIC_TIMESTAMP"])
            if entry["MESSAGE"] == "pending: starting the sandbox":
                begun, ended = at, None
            elif begun and ended is None and entry["MESSAGE"].startswith("Started: container"):
                ended = at
        if begun and ended and ended - begun > LATE_US:
            moments += [(begun + LATE_US, 1), (ended, -1)]
    now = most = 0
    for _, change in sorted(moments):
        now += change
        most = max(most, now)
    return most


def main(prefix):
    there = {name: row for name, row in pods().items() if name.startswith(prefix)}
    pids = [int(show(name, "MainPID")["MainPID"]) for name in there]
    before = cpu_s(pids)
    time.sleep(SECONDS)
    spent = cpu_s(pids) - before
    print(json.dumps({"pods": there, "pss_mib": sorted(pss_mib(pid) for pid in pids), "cpu_s": round(spent, 2),
                      "starts": most_at_once(there)}))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
