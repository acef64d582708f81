"""The engine: its network of pods always, its images and state where it came with Casemate."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import tomllib
from pathlib import Path

from appliance.node.reset import records
from appliance.node.reset.remover import Remover, remove_if_empty, run, unit_known

CNI_CONFIG = Path("/etc/cni/net.d/10-casemate.conflist")
CNI_STATE = Path("/var/lib/cni")
ENGINE_CONFIG = Path("/etc/containerd/config.toml")
# the engine's, on cgroup v2; with v1, one in each hierarchy
CGROUPS = ("k8s.io", "*/k8s.io")
# portmap's chains, which all networks of the host share
HOSTPORT = ("CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK")


def reset(remover: Remover, options: dict) -> None:
    """Remove the pods' network, and the engine's images and state; an engine that was there before keeps its own."""
    if CNI_CONFIG in records.files() and CNI_CONFIG.exists():
        _network(remover)
    if "containerd" in records.packages_installed():
        _state(remover)
    elif shutil.which("ctr") and unit_known("containerd.service"):
        _images(remover)


def _network(remover: Remover) -> None:
    config = json.loads(CNI_CONFIG.read_text())
    for program in ("iptables", "ip6tables"):
        if shutil.which(program):
            _rules(remover, program, config["name"])
    # asked of the kernel: /sys shows the interfaces of the network namespace that it was mounted in
    bridges = {
        link["ifname"] for link in json.loads(run("ip", "-json", "link", "show", "type", "bridge") or "[]") if link
    }
    for bridge in sorted(bridges & {plugin.get("bridge") for plugin in config["plugins"]}):
        remover.do(f"interface {bridge}", lambda bridge=bridge: run("ip", "link", "delete", bridge))
    remover.tree(CNI_STATE / "networks" / config["name"])
    for result in sorted((CNI_STATE / "results").glob(f"{config['name']}-*")):
        remover.tree(result)
    if not remover.check:
        for directory in (CNI_STATE / "networks", CNI_STATE / "results", CNI_STATE / "cache", CNI_STATE):
            remove_if_empty(directory)


def _rules(remover: Remover, program: str, network: str) -> None:
    """Remove, rule by rule, what names our network, then portmap's chains if no other network uses them."""
    chains, rules = _nat(program)
    ours = [r for r in rules if f'name: "{network}"' in " ".join(r)]
    targets = {r[r.index("-j") + 1] for r in ours if "-j" in r}
    own_chains = {c for c in targets if re.fullmatch(r"CNI-(DN-)?[0-9a-f]+", c)}
    for rule in ours:
        remover.do(f"{program} rule in {rule[1]}", lambda rule=rule: run(program, "-t", "nat", "-D", *rule[1:]))
    _chains(remover, program, sorted(own_chains & chains))
    left = [r for r in rules if r not in ours]
    if "CNI-HOSTPORT-DNAT" in chains and not any(r[1] == "CNI-HOSTPORT-DNAT" for r in left):
        for rule in left:
            if "-j" in rule and rule[rule.index("-j") + 1] in HOSTPORT and rule[1] not in HOSTPORT:
                remover.do(f"{program} rule in {rule[1]}", lambda rule=rule: run(program, "-t", "nat", "-D", *rule[1:]))
        _chains(remover, program, [c for c in HOSTPORT if c in chains])


def _chains(remover: Remover, program: str, names: list[str]) -> None:
    """Empty and delete chains that nothing jumps to from outside."""
    for action in ("-F", "-X"):
        for name in names:
            if action == "-F":
                if not remover.check:
                    run(program, "-t", "nat", "-F", name)
            else:
                remover.do(f"{program} chain {name}", lambda name=name: run(program, "-t", "nat", "-X", name))


def _nat(program: str) -> tuple[set[str], list[list[str]]]:
    """The chains of the nat table and its rules, each as words: -A, chain, match ..."""
    saved = run(f"{program}-save", "-t", "nat", check=False).splitlines()
    chains = {line[1:].split()[0] for line in saved if line.startswith(":")}
    return chains, [shlex.split(line) for line in saved if line.startswith("-A ")]


def _state(remover: Remover) -> None:
    remover.unit("containerd.service")
    for root in (_root(), Path("/run/containerd")):
        remover.tree(root)
    # made by containerd itself
    remover.tree(Path("/opt/containerd"))
    if not remover.check:
        remove_if_empty(Path("/run/netns"))
        for group in (p for pattern in CGROUPS for p in Path("/sys/fs/cgroup").glob(pattern)):
            remove_cgroup(group)


def _root() -> Path:
    """Where the deployed configuration keeps images and containers."""
    if not ENGINE_CONFIG.exists():
        return Path("/var/lib/containerd")
    return Path(tomllib.loads(ENGINE_CONFIG.read_text()).get("root", "/var/lib/containerd"))


def _images(remover: Remover) -> None:
    """Remove the images that we made, by name and by the ids that CRI gave them, from an engine that stays."""
    rows = [line.split() for line in run("ctr", "-n", "k8s.io", "images", "ls", check=False).splitlines()[1:]]
    digests = {row[0]: row[2] for row in rows if len(row) > 2}
    ours = {digest for reference, digest in digests.items() if reference.startswith("localhost/casemate/")}
    for reference, digest in sorted(digests.items()):
        if digest in ours and reference.startswith(("localhost/casemate/", "sha256:")):
            remover.do(f"image {reference}", lambda r=reference: run("ctr", "-n", "k8s.io", "images", "rm", r))


def remove_cgroup(group: Path) -> None:
    """Remove a control group that no process is in."""
    for directory, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(directory).rmdir()
