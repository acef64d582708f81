"""Backups and restores that are killed, cut off, without space, or of a damaged repository: nothing is lost.

Two hosts: one with a repository in a directory of its own, that the other reaches by sftp.
"""

import datetime
import json
import random
import subprocess
import threading
import time

import pytest

from appliance.lab import manage
from tests.conftest import on_host
from tests.e2e.backup_site import SECRET, VOLUMES, Site, sftp_server
from tests.e2e.conftest import seed
from tests.e2e.edge_site import until

pytestmark = [pytest.mark.lab, pytest.mark.full]
BACKUP = "/usr/lib/casemate/bin/casemate-backup"
MOMENTS = 10
# what never changes in the volume `scratch`: 150 MiB, and names that are meant ill
FILL = """
import os
os.chdir(b"/var/lib/casemate/pool/volumes/scratch")
for name in (b"two words", b"two\\nlines", b"-rf", b"no utf-8 \\xff", "ümläut".encode(), b"a*[b]", b"x" * 255):
    with open(name, "wb") as file:
        file.write(os.urandom(4096))
os.makedirs(b"deep/" * 20, exist_ok=True)
os.symlink("/etc/shadow", "link")
os.mkfifo("fifo")
for number in range(150):
    with open(f"block{number}", "wb") as file:
        file.write(os.urandom(1 << 20))
"""
SUMS = "cd {} && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum; find . | wc -l"


@pytest.fixture(scope="module")
def pair(new_host, tmp_path_factory):
    """The site at the host that has the repository, and at the one that reaches it by sftp."""
    directory = tmp_path_factory.mktemp("faults")
    one, other = new_host("fa"), new_host("fb")
    site = Site(one, directory, other, own={other.name: sftp_server(one, directory)})
    for host in (one, other):
        site.at(host).deploy()
    on_host(one, "python3", "-", stdin=FILL)
    return site, site.at(other)


@pytest.fixture(scope="module")
def whole(pair) -> dict:
    """A good backup of the first host, and how long it took."""
    began = time.monotonic()
    made = pair[0].ask("backup", "now")
    return made | {"seconds": time.monotonic() - began, "sums": _sums(pair[0])}


def _sums(site, volume: str = "scratch") -> str:
    return site.sh(SUMS.format(f"{VOLUMES}/{volume}"))


def _start(site, *words: str) -> subprocess.Popen:
    """casemate-backup on a host, not through the command: there is one process to kill."""
    argv = manage.shell(site.host.name, [BACKUP, *words])
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _kill(site, process: subprocess.Popen) -> None:
    site.sh("pkill -KILL -f 'casemate-backup (now|restore)' || true")
    process.communicate(timeout=60)
    until(lambda: site.sh("pgrep -x restic || true"), lambda found: not found, 30)


def _ready(site) -> dict[str, bool]:
    return {one["name"]: one["ready"] for one in site.ask("status")["pods"]}


def test_a_backup_killed_at_any_moment_leaves_the_source_and_the_next_run_well(pair, whole):
    site, _ = pair
    chance = random.Random(seed())
    site.sh(f"head -c 100M /dev/urandom > {VOLUMES}/uploads/new")  # so that there is something to save
    for _ in range(MOMENTS):
        process = _start(site, "now")
        time.sleep(chance.uniform(0, 3))
        _kill(site, process)
        assert _sums(site) == whole["sums"]
        assert site.sh("grep -c casemate/backup /proc/mounts || true") == "0\n"
        site.sh(f"head -c 20M /dev/urandom >> {VOLUMES}/uploads/new")
    assert all(_ready(site).values()) and site.ask("backup", "status")["phase"] == "cut short"
    made = site.ask("backup", "now")
    assert made["everything"] and site.run("backup", "verify").returncode == 0
    assert site.sh("ls -A /var/lib/casemate/pool") == "volumes\n"


def test_a_restore_killed_at_any_moment_leaves_the_old_or_the_new_and_the_pods_run(pair, whole):
    _, other = pair
    chance = random.Random(seed() + "restore")
    name = pair[0].host.name
    other.sh(f"echo mine > {VOLUMES}/scratch/mine")
    words = ["restore", "--from", name, "--snapshot", whole["id"]]
    began = time.monotonic()
    assert _start(other, *words).wait(timeout=300) == 0
    takes = time.monotonic() - began
    for number in range(MOMENTS):
        other.sh(f"rm -rf {VOLUMES}/scratch/*; echo {number} > {VOLUMES}/scratch/mine")
        process = _start(other, *words)
        # half of them in its last part, where things are put in their places
        time.sleep(chance.uniform(0, takes) if number % 2 else takes * chance.uniform(0.6, 1))
        _kill(other, process)
        found = other.sh(f"ls {VOLUMES}/scratch | wc -l; cat {VOLUMES}/scratch/mine 2>/dev/null || true").split()
        assert found == ["1", str(number)] or _sums(other) == whole["sums"], found
        pods = until(lambda: _ready(other), lambda pods: all(pods.values()), 60)
        assert pods == {"blog": True, "demo": True, "shop": True}, number
    done = other.ask("restore", "--from", name, "--backup", whole["id"], "--yes")
    assert _sums(other) == whole["sums"] and done["files"] > 150
    assert other.sh("ls -A /var/lib/casemate/pool") == "replaced\nvolumes\n"
    # every one of the volumes that were replaced is still there
    kept = other.sh("cat /var/lib/casemate/pool/replaced/scratch-*/mine 2>/dev/null || true").split()
    assert "mine" in kept


def test_a_restore_that_does_not_fit_is_refused_or_ends_with_what_was_there(pair, whole):
    _, other = pair
    name = pair[0].host.name
    other.sh(f"rm -rf {VOLUMES}/scratch/*; echo mine > {VOLUMES}/scratch/mine")
    # what is removed counts as free only after it was committed
    other.sh("cd /var/lib/casemate/pool && exec >&2; btrfs subvolume delete replaced/*; rm -rf replaced; "
             "btrfs subvolume sync .; btrfs filesystem sync .")  # fmt: skip
    free = int(other.sh("df --output=avail -B1 /var/lib/casemate/pool | tail -1"))
    try:
        other.sh(f"fallocate -l {free - (100 << 20)} /var/lib/casemate/pool/volumes/uploads/full")
        small = other.run("restore", "--from", name, "--backup", whole["id"], "--volume", "scratch", "--yes")
        other.sh("rm /var/lib/casemate/pool/volumes/uploads/full; sync")
        # and a pool that fills up on the way
        process = _start(other, "restore", "--from", name, "--snapshot", whole["id"], "--volume", "scratch")
        for line in process.stderr:
            if line.startswith("fetching"):
                break
        other.sh(f"fallocate -l {free - (100 << 20)} /var/lib/casemate/pool/volumes/uploads/full || true")
        _, said = process.communicate(timeout=300)
    finally:
        other.sh("rm -f /var/lib/casemate/pool/volumes/uploads/full; sync")
    assert small.returncode == 1 and "the pool has" in small.stdout and "MiB left" in small.stdout, small.stdout
    assert process.returncode == 1 and "disk is full here" in said, said
    assert other.sh(f"cat {VOLUMES}/scratch/mine") == "mine\n" and all(_ready(other).values())
    assert other.ask("restore", "--from", name, "--backup", whole["id"], "--volume", "scratch", "--yes")["files"] > 150


def test_a_volume_that_is_larger_than_its_limit_here_is_refused_before_anything_is_fetched(pair, whole):
    _, other = pair
    other.sh(f"rm -rf {VOLUMES}/scratch/*; btrfs qgroup limit 50M {VOLUMES}/scratch")
    refused = other.run("restore", "--from", pair[0].host.name, "--backup", whole["id"], "--volume", "scratch", "--yes")
    other.sh(f"btrfs qgroup limit none {VOLUMES}/scratch")
    assert refused.returncode == 1 and "may have 50 MiB here: raise its size in storage_volumes" in refused.stdout


def test_a_backup_that_is_cut_off_says_so_and_the_next_one_works(pair, whole):
    site, other = pair
    other.sh(f"head -c 200M /dev/urandom > {VOLUMES}/uploads/new")
    process = _start(other, "now")
    for line in process.stderr:
        if "saving:" in line:
            break
    subprocess.run(["ip", "link", "set", site.host.interface, "down"], check=True)
    try:
        _, said = process.communicate(timeout=300)
    finally:
        subprocess.run(["ip", "link", "set", site.host.interface, "up"], check=True)
    assert process.returncode == 1 and "cannot be reached" in said, said
    assert not other.ask("backup", "status")["last"]["ok"]
    assert until(lambda: other.run("backup", "now").returncode, lambda code: code == 0, 120) == 0


def test_every_damaged_repository_is_found(pair, whole):
    site, _ = pair
    chance = random.Random(seed() + "damage")
    site.sh('sed -i \'s,"/srv/backup","/srv/damaged",\' /etc/casemate/backup.json')
    # but what restics that were killed left, which belongs to no backup
    whose = "-type f -size +0 -not -path './locks/*' -not -name '*-restic-temp-*'"
    found, files = [], site.sh(f"cd /srv/backup && find . {whose}").split()
    # one of each kind of file, and the others by chance
    kinds = {path.split("/")[1]: path for path in files}
    chosen = [*kinds.values(), *chance.choices(files, k=20 - len(kinds))]
    try:
        for path in chosen:
            flip = (
                f"import os; path='/srv/damaged/{path}'; at=int(os.path.getsize(path)*{chance.random()}); "
                "file=open(path,'r+b'); file.seek(at); byte=file.read(1)[0]; file.seek(at); "
                f"file.write(bytes([byte ^ {1 << chance.randrange(8)}]))"
            )
            site.sh("rm -rf /srv/damaged; cp -r /srv/backup /srv/damaged; chmod -R u+w /srv/damaged")
            on_host(site.host, "python3", "-c", flip)
            done = site.run("backup", "verify")
            print(path, done.returncode, done.stdout.strip()[-200:])
            found.append((path, done.returncode, "damaged" in done.stdout))
        good = site.sh("rm -rf /srv/damaged; cp -r /srv/backup /srv/damaged") or site.run("backup", "verify").returncode
    finally:
        site.sh('sed -i \'s,"/srv/damaged","/srv/backup",\' /etc/casemate/backup.json; rm -rf /srv/damaged')
    assert [one for one in found if one[1:] != (1, True)] == [] and good == 0


def test_no_secret_is_seen_while_anything_runs(pair, whole):
    site, other = pair
    key = (site.directory / "key").read_text().splitlines()[1]
    watch = """
import os, sys, time
end, seen = time.time() + float(sys.argv[1]), set()
while time.time() < end:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            seen.add(open(f"/proc/{pid}/cmdline", "rb").read())
        except OSError:
            pass
    time.sleep(0.01)
print(b"\\n".join(seen).decode(errors="replace"))
"""
    argvs: list[str] = []
    watcher = threading.Thread(target=lambda: argvs.append(on_host(other.host, "python3", "-", "40", stdin=watch)))
    watcher.start()
    other.sh(f"head -c 50M /dev/urandom > {VOLUMES}/uploads/more")
    other.ask("backup", "now")
    other.ask("backup", "list")
    other.ask("restore", "--volume", "uploads", "--yes")
    assert other.run("backup", "verify").returncode == 0
    watcher.join()
    assert "restic" in argvs[0] and "sftp" in argvs[0]
    words = (SECRET, key)
    assert not [word for word in words if word in argvs[0]]
    script = "grep -rlsF -e '{}' /etc /var/lib/casemate /var/log /run /tmp /root /usr/lib/systemd || true"
    assert other.sh(script.format(SECRET)).split() == ["/etc/casemate/backup.password"]
    assert other.sh(script.format(key)).split() == ["/etc/casemate/backup.key"]
    assert other.sh("stat -c %a /etc/casemate/backup.password /etc/casemate/backup.key").split() == ["600", "600"]
    log = other.sh("journalctl --no-pager")
    assert not [word for word in words if word in log]


def test_a_year_of_backups_keeps_what_the_policy_says(pair, whole):
    site, _ = pair
    policy = {"daily": 7, "weekly": 4, "monthly": 6, "yearly": 1}
    script = f"""
import datetime, json, os, subprocess, sys
sys.path.insert(0, "/usr/lib/casemate")
os.environ.update(RESTIC_REPOSITORY="/srv/year", RESTIC_PASSWORD_FILE="/etc/casemate/backup.password",
                  RESTIC_CACHE_DIR="/srv/year-cache")
restic = lambda *words: subprocess.run(["restic", "-q", *words], check=True, capture_output=True, text=True).stdout
restic("init")
os.makedirs("/srv/small", exist_ok=True)
day = datetime.datetime(2026, 1, 1, 3)
for number in range(365):
    at = day + datetime.timedelta(days=number)
    open("/srv/small/file", "w").write(str(at))
    restic("backup", "/srv/small", "--host", "{site.host.name}", "--tag", "casemate,everything", "--time",
           at.strftime("%Y-%m-%d %H:%M:%S"))
    if number % 30 == 29 or number == 364:
        subprocess.run(["{BACKUP}", "prune"], check=True, capture_output=True)
found = json.loads(restic("snapshots", "--json", "--tag", "casemate"))
print(json.dumps([one["time"][:10] for one in found]))
"""
    declared = json.loads(site.sh("cat /etc/casemate/backup.json"))
    year = json.dumps(declared | {"repository": "/srv/year", "keep": policy})
    site.sh("cp /etc/casemate/backup.json /root/declared")
    try:
        on_host(site.host, "sh", "-c", "cat > /etc/casemate/backup.json", stdin=year)
        kept = json.loads(on_host(site.host, "python3", "-", stdin=script).splitlines()[-1])
    finally:
        site.sh("mv /root/declared /etc/casemate/backup.json; rm -rf /srv/year /srv/year-cache /srv/small")
    assert kept == _kept_of_a_year(policy)


def _kept_of_a_year(policy: dict[str, int]) -> list[str]:
    """The same, worked out here: of the last so many days, weeks ... that have one, the last."""
    kinds = {"daily": "%Y-%m-%d", "weekly": "%G-%V", "monthly": "%Y-%m", "yearly": "%Y"}
    there: list[datetime.date] = []
    for number in range(365):
        there.append(datetime.date(2026, 1, 1) + datetime.timedelta(days=number))
        if number % 30 == 29 or number == 364:
            kept = {there[-1]}
            for kind, count in policy.items():
                last = {one.strftime(kinds[kind]): one for one in there}  # of each period the last
                kept |= set(sorted(last.values())[-count:])
            there = sorted(kept)
    return [str(one) for one in there]
