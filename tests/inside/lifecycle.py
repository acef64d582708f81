"""Runs on an appliance: drives its engine through CRI and prints one JSON object of what the microVMs did."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from cri_pods import Pod, as_user, cmdline, cri, execute, mounts_and_devices, refusal, sandbox_of, sh, wait

from appliance.node.pods.teardown import stop_container

FETCH = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).read())"


def guest_clock(container):
    """Return the time in s of the host and of the guest at one moment, and how far that moment is uncertain."""
    before = time.monotonic()
    guest = float(execute(container, *sh("read up _ < /proc/uptime; echo $up"))[1])
    after = time.monotonic()
    return (before + after) / 2, guest, (after - before) / 2


def main():
    shutil.rmtree("/tmp/casemate-test", ignore_errors=True)
    os.makedirs("/tmp/casemate-test")
    Pod("warm").remove()  # so that .containers and the like are there before the comparison
    seen = {"before": mounts_and_devices()}

    pod = Pod("one")
    seen["started_in"], seen["info"], seen["address"] = pod.started_in, pod.info(), pod.address()

    begin = time.monotonic()
    first = pod.container(*sh("echo out; echo err >&2; exit 42"), name="first")
    seen["first_started_in"] = round(time.monotonic() - begin, 2)
    seen["first_code"] = wait(first)
    seen["first_done_in"] = round(time.monotonic() - begin, 2)
    seen["first_log"] = pod.log("first")

    web = pod.container(
        *sh("mkdir -p /tmp/w; echo hello > /tmp/w/index.html; exec busybox httpd -f -p 8000 -h /tmp/w"), name="web"
    )
    time.sleep(1)
    client = pod.container(*sh("wget -qO- http://127.0.0.1:8000/"), name="client")
    seen["localhost_code"], seen["localhost"] = wait(client), pod.log("client")
    fetched = subprocess.run(
        [sys.executable, "-c", FETCH, f"http://{pod.address()}:8000/"],
        capture_output=True, text=True,
    )  # fmt: skip
    seen["from_host"] = fetched.stdout + fetched.stderr[-300:]

    seen["exec"] = execute(web, *sh("echo one; echo two >&2; exit 7"))
    begin = time.monotonic()
    clock = [guest_clock(web)]
    seen["exec_kernel"] = execute(web, *sh("uname -r"))[1].strip()
    seen["exec_in"] = round(time.monotonic() - begin, 2)
    seen["exec_identity"] = execute(
        web,
        *sh(
            "hostname; cat /etc/resolv.conf /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | md5sum; date +%s"
        ),
    )[1].split("\n")
    seen["host_time"] = int(time.time())
    seen["exec_missing"] = refusal(lambda: execute(web, "/no/such/program"))

    os.makedirs("/tmp/casemate-test/vol/sub", exist_ok=True)
    Path("/tmp/casemate-test/vol/in").write_text("from host\n")
    Path("/tmp/casemate-test/file").write_text("a file\n")
    volumes = [
        {"host_path": "/tmp/casemate-test/vol", "container_path": "/data"},
        {"host_path": "/tmp/casemate-test/vol", "container_path": "/ro", "readonly": True},
        {"host_path": "/tmp/casemate-test/file", "container_path": "/etc/one-file"},
    ]
    user = pod.container(
        *sh("id -u; id -g; pwd; echo $GREETING; cat /data/in /etc/one-file; echo written > /data/sub/out; touch /ro/x; "
            "cat /data/later; while [ ! -e /data/go ]; do sleep 0.2; done; cat /data/go"),
        name="user", envs=[{"key": "GREETING", "value": "hello env"}], working_dir="/www",
        mounts=volumes,
        linux=as_user(0, 0),
    )  # fmt: skip
    time.sleep(1.5)
    Path("/tmp/casemate-test/vol/go").write_text("seen later\n")
    seen["user_code"], seen["user"] = wait(user), pod.log("user")
    seen["written"] = Path("/tmp/casemate-test/vol/sub/out").read_text()
    os.chmod("/tmp/casemate-test/vol/sub", 0o777)
    nobody = pod.container(
        *sh("id -u; id -g; echo mine > /data/sub/nobody; cat /etc/shadow-test"), name="nobody",
        mounts=[{"host_path": "/tmp/casemate-test/vol", "container_path": "/data"}],
        linux=as_user(1234, 5678),
    )  # fmt: skip
    seen["nobody_code"], seen["nobody"] = wait(nobody), pod.log("nobody")
    owner = os.stat("/tmp/casemate-test/vol/sub/nobody")
    seen["nobody_owner"] = [owner.st_uid, owner.st_gid]

    trap = pod.container(*sh("trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.1; done"), name="trap")
    time.sleep(1)
    stop_container(cri, trap, 30)
    seen["trap_code"], seen["trap"] = wait(trap), pod.log("trap")
    stubborn = pod.container(*sh("trap '' TERM; echo ready; while :; do sleep 0.1; done"), name="stubborn")
    time.sleep(0.5)
    stop_container(cri, stubborn, 1)
    seen["stubborn_code"] = wait(stubborn)
    seen["stubborn_left"] = execute(web, *sh("echo alive"))[1]

    begin = time.monotonic()
    flood = pod.container(*sh("head -c 20000000 /dev/zero | tr '\\000' x | fold -w 1000; echo end"), name="flood")
    seen["flood_code"] = wait(flood, 120)
    seen["flood_in"] = round(time.monotonic() - begin, 2)
    text = pod.log("flood")["stdout"]
    seen["flood_bytes"], seen["flood_end"] = text.count("x"), text[-4:]

    seen["bad_program"] = refusal(lambda: pod.container("/no/such/program", name="bad"))
    limited = pod.container(
        *sh("cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max"), name="limited",
        linux={"security_context": {"namespace_options": {"pid": 1}},
               "resources": {"memory_limit_in_bytes": 64 << 20, "cpu_period": 100000, "cpu_quota": 50000}},
    )  # fmt: skip
    seen["limited_code"], seen["limited"] = wait(limited), pod.log("limited")
    greedy = pod.container(
        *sh("tail /dev/zero"), name="greedy",
        linux={"security_context": {"namespace_options": {"pid": 1}}, "resources": {"memory_limit_in_bytes": 16 << 20}},
    )  # fmt: skip
    seen["greedy_code"] = wait(greedy)
    seen["restart_code"] = wait(pod.container(*sh("exit 3"), name="again"))

    other = Pod("two")
    sleeper = other.container(*sh("sleep 1000"), name="sleeper")
    seen["other_identity"] = execute(
        sleeper, *sh("hostname; cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | md5sum")
    )[1].split("\n")
    qemu = next(
        int(p) for p in os.listdir("/proc")
        if p.isdigit() and b"qemu-system" in cmdline(p) and sandbox_of(p) == other.id
    )  # fmt: skip
    seen["qemu_uid"] = os.stat(f"/proc/{qemu}").st_uid
    os.kill(qemu, signal.SIGKILL)
    seen["killed_code"] = wait(sleeper, 20)
    seen["killed_log"] = other.log("sleeper")
    time.sleep(0.5)
    seen["killed_sandbox_state"] = cri.call("PodSandboxStatus", pod_sandbox_id=other.id).status.state
    other.remove()

    clock.append(guest_clock(web))
    (host, guest, doubt), (later, guest_later, doubt_later) = clock
    seen["clock"] = {"host": later - host, "guest": guest_later - guest, "doubt": doubt + doubt_later}
    seen["host_network"] = refusal(lambda: Pod("hostnet", namespaces={"network": 2}))
    seen["host_pid"] = refusal(lambda: Pod("hostpid", namespaces={"pid": 2}))
    big = Pod("big", memory=300 << 20, cpus=1)
    seen["big_info"], seen["big_started_in"] = big.info(), big.started_in
    big.remove()
    pod.remove()
    time.sleep(0.5)
    seen["after"] = mounts_and_devices()
    shutil.rmtree("/tmp/casemate-test")
    print(json.dumps(seen, indent=1))


if __name__ == "__main__":
    main()
