"""Reading control groups of either version, and rates from two readings."""

import os

import pytest

from appliance.node.pods import use

GIB = 1 << 30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes files below a made-up /sys/fs/cgroup; this process's own groups are in there by their real paths."""
    monkeypatch.setattr(use, "CGROUPS", tmp_path / "cgroup")
    real = use.Path

    def proc(path):
        return tmp_path / "proc" if str(path).startswith("/proc/") else real(path)

    monkeypatch.setattr(use, "Path", proc)

    def write(own: str, **files: str) -> None:
        (tmp_path / "proc").write_text(own)
        for path, text in files.items():
            file = tmp_path / "cgroup" / path.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return write


def test_version_2(groups):
    groups(
        "0::/a/b\n",
        **{
            "a__b__memory.current": f"{GIB}\n",
            "a__b__memory.stat": "anon 5\ninactive_file 100\nactive_file 7\n",
            "a__b__cpu.stat": "usage_usec 2500\nuser_usec 2000\n",
        },
    )
    expected = {"cpu_ns": 2_500_000, "memory_bytes": GIB, "working_set_bytes": GIB - 100}
    assert use.group_use(os.getpid()) == expected


@pytest.mark.parametrize("controllers", ["cpu,cpuacct", "cpuacct,cpu", "cpuacct"])
def test_version_1_with_the_controllers_that_share_a_hierarchy(groups, controllers):
    groups(
        f"5:memory:/m/p\n4:{controllers}:/c/p\n0::/unified\n",
        **{
            "memory__m__p__memory.usage_in_bytes": "1000\n",
            "memory__m__p__memory.stat": "inactive_file 1\ntotal_inactive_file 400\n",
            "cpuacct__c__p__cpuacct.usage": "77\n",
        },
    )
    assert use.group_use(os.getpid()) == {"cpu_ns": 77, "memory_bytes": 1000, "working_set_bytes": 600}


def test_a_rate_is_the_difference_over_the_time_between():
    before = {"cpu_ns": 1_000_000_000, "at_ns": 0}
    after = {"cpu_ns": 2_000_000_000, "at_ns": 4_000_000_000, "memory_bytes": 9, "working_set_bytes": 8}
    rate = use._rate(before, after)
    assert rate == {"cpu": 0.25, "cpu_seconds": 2.0, "memory_bytes": 9, "working_set_bytes": 8}
    assert use._rate(None, after)["cpu"] == 0
