"""Runs on an appliance: limits of memory and processors, their change, and what running out of memory looks like."""

from behaviour_image import image
from behaviour_isolation import context, said
from behaviour_lifecycle import heard, kind_of_end, run
from cri_pods import cri, execute, refusal

# Either version of cgroups, as memory limit, quota and period, and cgroup v2's weight.
LIMITS = (
    "cd /sys/fs/cgroup; if [ -e memory.max ]; then cat memory.max cpu.max cpu.weight | tr ' ' '\\n'; else "
    "cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us; "
    "echo $((1 + ($(cat cpu/cpu.shares) - 2) * 9999 / 262142)); fi"
)


def limited(**resources):
    return context() | {"resources": resources}


def case_limits(pod):
    """Memory, processor time and weight; and weight where none is asked for."""
    linux = limited(memory_limit_in_bytes=64 << 20, cpu_period=50000, cpu_quota=25000, cpu_shares=512)
    return {
        "asked": said(pod, LIMITS, "limited", linux=linux),
        "weight_of_none": said(pod, LIMITS, "unlimited")[-2],
        "little": said(pod, LIMITS, "little", linux=limited(cpu_shares=2))[-2],
    }


def case_out_of_memory(pod):
    """Told by its reason, with the exact code; by itself, by a child, and not when it was not so."""
    small = limited(memory_limit_in_bytes=32 << 20)
    itself = pod.container("/bin/tail", "/dev/zero", image=image(), name="itself", linux=small)
    child = run(pod, "tail /dev/zero; exit 12", name="child", linux=small)
    killed = run(pod, "while :; do sleep 1; done", name="killed", linux=small)
    cri.call("StopContainer", 60, container_id=killed, timeout=0)
    return {"itself": kind_of_end(itself), "child": kind_of_end(child), "killed": kind_of_end(killed)}


def case_update(pod):
    """Limits of a running container change; what cannot change is refused."""
    identifier = run(
        pod, "echo ready; while :; do sleep 1; done", name="updated", linux=limited(memory_limit_in_bytes=64 << 20)
    )
    heard(pod, "updated", "ready")

    def update(**resources):
        return refusal(
            lambda: cri.call("UpdateContainerResources", 60, container_id=identifier, linux=resources)
        )  # fmt: skip

    seen = {"changed": update(memory_limit_in_bytes=80 << 20, cpu_quota=30000, cpu_period=100000, cpu_shares=256)}
    seen["limits"] = execute(identifier, "/bin/sh", "-c", LIMITS)[1].split()
    seen["too_much"] = words(update(memory_limit_in_bytes=1 << 40))
    seen["cpuset"] = words(update(cpuset_cpus="0"))
    seen["after"] = execute(identifier, "/bin/sh", "-c", LIMITS)[1].split()
    cri.call("StopContainer", 60, container_id=identifier, timeout=0)
    return seen


def words(text):
    known = ("cannot grow", "names processors or memory of the host")
    return text and next((w for w in known if w in text), text)
