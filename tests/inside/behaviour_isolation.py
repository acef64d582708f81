"""Runs on an appliance: what a container may do, sees and shares: users, rights, namespaces, mounts."""

import json
import os
import time
import uuid
from pathlib import Path

from behaviour_lifecycle import heard, run
from cri_pods import cri, execute, refusal, wait

PRIVATE_PID, POD_PID = {"pid": 1}, {"pid": 0}
IDENTITY = "id -u; id -g; id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '"


def context(namespaces=PRIVATE_PID, **fields):
    return {"security_context": {"namespace_options": namespaces, **fields}}


def said(pod, script, name, **fields):
    """Run a script to its end; return its lines and its code."""
    name = f"{name}-{uuid.uuid4().hex[:6]}"
    code = wait(run(pod, f"exec 2>&1\n{script}", name=name, **fields))
    return [*pod.log(name)["stdout"].splitlines(), code]


def case_users(pod):
    """User, group and further groups, by number and by name; with and without what the image's files say."""
    return {
        "numbers": said(pod, IDENTITY, "numbers", linux=context(
            run_as_user={"value": 1234}, run_as_group={"value": 5678}, supplemental_groups=[4321, 99])),
        "name": said(pod, IDENTITY, "name", linux=context(run_as_username="worker")),
        "image": said(pod, IDENTITY, "image"),
        "unknown": refusal(lambda: run(pod, "true", linux=context(run_as_username="nobody-here"))) is not None,
    }  # fmt: skip


CAPABILITIES = "grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status"


def case_capabilities(pod):
    """The engine's default set, one more, one less, none; and that a missing one is missed."""

    def capabilities(name, **fields):
        return said(pod, f"{CAPABILITIES}; touch /f; chown 1 /f; echo $?", name, linux=context(**fields))

    return {
        "default": capabilities("default"),
        "changed": capabilities(
            "changed", capabilities={"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["CHOWN"]}
        ),
        "none": capabilities("none", capabilities={"drop_capabilities": ["ALL"]}),
        "user": capabilities("user", run_as_user={"value": 1234}),
    }


def case_privileged(pod):
    """All of root's rights: over its own kernel in a microVM, over the host's with runc."""
    mine = type(pod)("privileged", handler=pod.handler, security={"privileged": True})
    script = (
        "grep ^CapEff /proc/self/status; sysctl=/proc/sys/net/core/somaxconn; cat $sysctl > $sysctl && echo sysctl; "
        "mount -t tmpfs x /tmp && echo mounted; mknod /tmp/zero c 1 5 && head -c 3 /tmp/zero | wc -c; "
        "unshare -n echo own; [ -e /dev/kvm ] && echo device"
    )
    rights, *seen = said(mine, script, "privileged", linux=context(privileged=True))
    mine.remove()
    return ["all" if rights in Path("/proc/self/status").read_text() else rights, *seen]


def case_no_new_privileges(pod):
    """A set-user-ID program raises its user, unless that is forbidden."""
    script = "/bin/set-user-id -P & sleep 1; grep ^Uid: /proc/$!/status | tr '\\t' ' '; grep ^NoNew /proc/self/status"
    user = {"run_as_user": {"value": 1234}}
    return {
        "allowed": said(pod, script, "allowed", linux=context(**user))[:-1],
        "forbidden": said(pod, script, "forbidden", linux=context(no_new_privs=True, **user))[:-1],
    }


def case_seccomp(pod):
    """The engine's profile, none, one of the host's files."""
    profile = Path("/tmp/casemate-test/seccomp.json")
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    script = "mkdir /made; unshare -U true && echo unshared"
    profiles = {
        "default": {"profile_type": 0},
        "unconfined": {"profile_type": 1},
        "localhost": {"profile_type": 2, "localhost_ref": str(profile)},
    }
    return {name: said(pod, script, name, linux=context(seccomp=chosen))[:-1] for name, chosen in profiles.items()}


def case_paths_of_the_root(pod):
    """A read-only root; paths that are hidden or read-only as asked, as Kubernetes asks for those of /proc and /sys."""
    script = "touch /x; touch /tmp/y && echo tmp; touch /dev/shm/z && echo shm"
    look = (
        "cat /proc/timer_list | wc -c; ls /sys/firmware | wc -w; cat /etc/passwd | wc -c; "
        "somaxconn=/proc/sys/net/core/somaxconn; cat $somaxconn > $somaxconn; "
        "touch /etc/x; touch /sys/x"
    )
    asked = context(
        masked_paths=["/etc/passwd", "/proc/timer_list", "/sys/firmware"], readonly_paths=["/etc", "/proc/sys"]
    )
    tmp = "/tmp/casemate-test/" + uuid.uuid4().hex
    os.makedirs(tmp, mode=0o777)
    mount = {"host_path": tmp, "container_path": "/tmp"}
    return {
        "read_only": said(pod, script, "read-only", linux=context(readonly_rootfs=True), mounts=[mount]),
        "writable": said(pod, "echo a > /x; mkdir -p /new/deep; umask; ls / | grep -c -E '^(x|new)$'", "writable"),
        "asked": said(pod, look, "asked", linux=asked),
    }


def case_names(pod):
    """Host name, name servers, hosts."""
    lines = said(pod, "hostname; cat /etc/hostname; cat /etc/resolv.conf; grep -c localhost /etc/hosts", "names")
    return [line.replace(pod.name, "POD") if isinstance(line, str) else line for line in lines]


def case_limits_of_processes(pod):
    """Files that a program may open, its core dumps, its umask, its out-of-memory score."""
    script = "[ $(ulimit -n) -ge 16384 ] && echo many; ulimit -c; umask; cat /proc/self/oom_score_adj"
    linux = context() | {"resources": {"oom_score_adj": 500}}
    return said(pod, script, "limits", linux=linux)


def case_sysctls_and_shared_processes(pod):
    """Sysctls of the pod; with shareProcessNamespace, containers see, signal and outlive each other."""
    wanted = {"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1", "net.core.somaxconn": "777"}
    mine = type(pod)("shares", handler=pod.handler, sysctls=wanted, namespaces=POD_PID)
    shared = {"linux": context(POD_PID)}
    files = " ".join("/proc/sys/" + name.replace(".", "/") for name in wanted)
    seen = {"sysctls": said(mine, f"cat {files}", "sysctls", **shared)}
    target = run(
        mine, "trap 'exit 11' USR1; sleep 4711 & (sleep 0.2 &); echo ready; while :; do sleep 0.2; done",
        name="target", **shared,
    )  # fmt: skip
    heard(mine, "target", "ready")
    observer = run(mine, "while :; do sleep 1; done", name="observer", **shared)
    lines = execute(observer, "/bin/sh", "-c", "ps -o pid,args | grep -E '[e]xit 11|[s]leep 4711'")[1].splitlines()
    pids = [line.split()[0] for line in lines if "exit 11" in line]
    seen["sees"] = len(lines)
    seen["is_not_the_first"] = execute(observer, "/bin/sh", "-c", "[ $$ != 1 ] && [ -d /proc/1 ]")[0]
    seen["signalled"] = execute(observer, "kill", "-USR1", pids[0])[0] if pids else None
    seen["code"] = wait(target)
    end = time.monotonic() + 20
    left = "x"
    while left and time.monotonic() < end:
        left = execute(
            observer, "/bin/sh", "-c", "ps -o args | grep '[s]leep 4711'; grep -l '^State:.Z' /proc/*/status"
        )[1]
    seen["left_or_unreaped"] = left
    seen["observer_lives"] = execute(observer, "true")[0]
    private = said(mine, "echo $$; ls -d /proc/[0-9]* | wc -l", "private")
    seen["private_one_beside_them"] = [private[0], int(private[1]) <= 3]
    mine.remove()
    return seen


def case_target_of_debugging(pod):
    """A container that joins the processes of another one, as `kubectl debug --target` does."""
    target = run(pod, "while :; do sleep 0.3; done", name="debugged")
    joined = said(pod, "ps -o args | grep -c '[w]hile'; [ $$ != 1 ] && echo beside", "debugger", linux=context(
        {"pid": 3, "target_id": target}))  # fmt: skip
    cri.call("StopContainer", 60, container_id=target, timeout=0)
    return joined


def case_shared_network_and_memory(pod):
    """Containers of a pod share addresses and /dev/shm, which is 64 MiB."""
    server = run(pod, "echo hello > /dev/shm/greeting; nc -l -p 4000 -e /bin/sh -c 'echo over'", name="server")
    run_until = "until [ -s /dev/shm/greeting ]; do sleep 0.1; done; cat /dev/shm/greeting; rm /dev/shm/greeting"
    script = f"{run_until}; sleep 0.5; nc 127.0.0.1 4000; df -k /dev/shm | tail -1 | awk '{{print $2}}'"
    seen = said(pod, script, "client")
    wait(server)
    return seen


def case_host_namespaces(pod):
    """Namespaces of the host: with runc there, refused in words by a microVM."""

    def refused(name, **namespaces):
        def action():
            type(pod)(name, handler=pod.handler, namespaces=namespaces).remove()

        return words(refusal(action))

    return {"network": refused("net", network=2), "pid": refused("pid", pid=2), "ipc": refused("ipc", ipc=2)}


def words(text):
    """What a refusal says beyond the call's and the engine's names."""
    return text and next((w for w in ("hostNetwork", "hostPID", "hostIPC", "mountPropagation") if w in text), text)


def case_mounts(pod):
    """Directories and files of the host, read-only where so asked, over files and on paths that are not there."""
    base = Path("/tmp/casemate-test", uuid.uuid4().hex)
    (base / "dir/sub").mkdir(parents=True)
    (base / "file").write_text("of host\n")
    (base / "dir/in").write_text("inside\n")
    mounts = [
        {"host_path": f"{base}/dir", "container_path": "/data"},
        {"host_path": f"{base}/dir", "container_path": "/new/deep/read-only", "readonly": True},
        {"host_path": f"{base}/file", "container_path": "/etc/passwd"},
    ]
    script = (
        "cat /data/in /etc/passwd /new/deep/read-only/in; echo out > /data/sub/out; touch /new/deep/read-only/x; "
        "echo more >> /etc/passwd; mv /data/in /data/moved; ls /new/deep/read-only"
    )
    seen = said(pod, script, "mounts", mounts=mounts)
    return {
        "inside": seen, "on_host": [(base / "dir/sub/out").read_text(), (base / "file").read_text(),
                                    sorted(os.listdir(base / "dir"))],
    }  # fmt: skip


def case_mount_propagation(pod):
    """None, from the host, both ways."""
    base = Path("/tmp/casemate-test", uuid.uuid4().hex)
    base.mkdir()
    seen = []
    for number in range(3):
        mount = {"host_path": str(base), "container_path": "/data", "propagation": number}
        action = lambda: wait(run(pod, "exit 0", name="propagation", mounts=[mount]))  # noqa: B023, E731
        seen.append(words(refusal(action)))
    return seen


def case_secrets_stay_in_memory(pod):
    """What a pod is given from memory is nowhere on a disk, and what it writes there is seen on the host."""
    name, secret = uuid.uuid4().hex, uuid.uuid4().hex
    volume = Path("/dev/shm", name)
    volume.mkdir()
    (volume / "secret").write_text(secret)
    mounts = [{"host_path": str(volume), "container_path": "/secret"}]
    identifier = run(
        pod, "cat /secret/secret; rev /secret/secret > /secret/written; echo; echo ready; while :; do sleep 1; done",
        name="secrets", mounts=mounts, log_path="",
    )  # fmt: skip
    execute(identifier, "/bin/sh", "-c", "until [ -s /secret/written ]; do sleep 0.1; done")
    on_disk = [
        str(path)
        for top in ("/var/lib/containerd", "/var/lib/casemate/microvm", "/var/log", "/var/tmp")
        for directory, _, names in os.walk(top)  # which, unlike rglob, lets directories go away meanwhile
        for path in (Path(directory, name) for name in names)
        if path.is_file() and not path.is_symlink() and holds(path, secret.encode(), secret[::-1].encode())
    ]
    written = (volume / "written").read_text().strip() == secret[::-1]
    cri.call("StopContainer", 60, container_id=identifier, timeout=0)
    (volume / "secret").unlink()
    (volume / "written").unlink()
    volume.rmdir()
    return [on_disk, written]


def holds(path, *texts):
    try:
        data = path.read_bytes()
    except OSError:  # gone meanwhile
        return False
    return any(text in data for text in texts)
