"""A backup and a restore against restic alone on the same host, of the same tree.

Both sides in one run, in turns first, each with a repository of its own on the same disk:
`python -m tests.bench backup --runs 3`. Ours is the program on the host, `casemate-backup`, which the timer and
`appliance backup now` run; what the command adds on the admin's machine is listed apart. Before each measurement the
pool has come to rest (btrfs removes the last backup's snapshots in the background, which costs the next one half a
second if it comes right after) and the page cache is empty, or the side that comes second would read from memory.
"""

import statistics
import tempfile
import time
from pathlib import Path

from appliance.lab import manage, state
from tests.bench.deploy import rounded, say
from tests.conftest import on_host
from tests.e2e.backup_site import VOLUMES, Site

HOST = "bench-backup"
OURS = "/usr/lib/casemate/bin/casemate-backup"
TREE = f"{VOLUMES}/scratch"
BARE = "RESTIC_REPOSITORY=/srv/bare RESTIC_PASSWORD_FILE=/etc/casemate/backup.password RESTIC_CACHE_DIR=/srv/cache "
# 24000 files of 4 to 128 KiB and one of 1200 MiB, of chance: 2.7 GiB
MAKE = f"""
import os, random
random.seed(1)
for number in range(24000):
    place = f"{TREE}/{{number // 100}}"
    os.makedirs(place, exist_ok=True)
    with open(f"{{place}}/{{number}}", "wb") as file:
        file.write(os.urandom(random.randrange(4096, 131072)))
with open("{TREE}/big", "wb") as file:
    for _ in range(1200):
        file.write(os.urandom(1 << 20))
"""


def run(runs: int) -> dict:
    """Measure `runs` times. Returns seconds per run and side, and the ratios of the medians."""
    found: dict[str, list[float]] = {}
    try:
        (host,) = manage.up([HOST], disk_mib=24576)
        with tempfile.TemporaryDirectory() as directory:
            site = Site(host, Path(directory), pods=[])
            site.deploy()
            on_host(host, "python3", "-", stdin=MAKE)
            for number in range(runs):
                say(f"run {number + 1} of {runs}")
                _once(site, found, ours_first=number % 2 == 0)
            site.ask("backup", "now")  # after the restore all files are new ones
            began = time.monotonic()
            site.ask("backup", "now")
            command = time.monotonic() - began
    finally:
        if any(one.name == HOST for one in state.load_all()):
            manage.down([HOST])
    middle = {name: statistics.median(values) for name, values in found.items()}
    return {
        "seconds": {name: rounded(values) for name, values in found.items()},
        "unchanged_by_the_command_s": round(command, 1),
        "ratio": {what: round(middle[f"{what}_ours"] / middle[f"{what}_restic"], 2)
                  for what in ("full", "unchanged", "restore")},
    }  # fmt: skip


def _once(site: Site, found: dict, ours_first: bool) -> None:
    site.sh("rm -rf /srv/backup /srv/bare /srv/cache /srv/back /var/lib/casemate/backup /var/cache/casemate-restic")
    site.sh(f"{BARE} restic init >&2")  # so that each side's first is of a repository that is there
    site.sh("RESTIC_REPOSITORY=/srv/backup RESTIC_PASSWORD_FILE=/etc/casemate/backup.password restic init >&2")
    kinds = {
        "full": (f"{OURS} now", f"cd {TREE} && {BARE} restic backup . >&2"),
        "unchanged": (f"{OURS} now", f"cd {TREE} && {BARE} restic backup . >&2"),
        "restore": (f"{OURS} restore --volume scratch", f"{BARE} restic restore latest --target {TREE}-bare >&2"),
    }
    for what, (ours, bare) in kinds.items():
        sides = [("ours", ours), ("restic", bare)]
        for side, script in sides if ours_first else reversed(sides):
            site.sh("btrfs subvolume sync /var/lib/casemate/pool >&2; sync")
            Path("/proc/sys/vm/drop_caches").write_text("3\n")  # a lab host may not
            began = time.monotonic()
            site.sh(script)
            found.setdefault(f"{what}_{side}", []).append(time.monotonic() - began)
            say(f"  {what}, {side}: {found[f'{what}_{side}'][-1]:.1f} s")
    site.sh(f"rm -rf {TREE}-bare; cd /var/lib/casemate/pool/replaced && btrfs subvolume delete * >&2")
