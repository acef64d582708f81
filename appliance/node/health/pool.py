"""What is to be done to bring a mounted pool to the devices that are declared for it: pure comparison."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1 << 20
_SLACK = _MIB  # btrfs rounds a device's size down
_SPARE = 512 * _MIB  # what a pool needs beside its data to go on: btrfs takes space in pieces
_SPARE_PART = 20  # the same, as one part of so many of the pool


@dataclass(frozen=True)
class Step:
    """One thing to do, in the order of `plan`.

    do: `replace` the member `id` by `device`, `add` the device, `resize` the member `id` to all of its device,
    `balance` to the profiles `data` and `metadata`, or `remove` the member `id`, whose path is `device` or `missing`.
    """

    do: str
    device: str = ""
    id: int = 0
    data: str = ""
    metadata: str = ""

    def __str__(self) -> str:
        """In words, for a person."""
        return {
            "replace": f"replace device {self.id} of the pool by {self.device}",
            "add": f"add {self.device} to the pool",
            "resize": f"use all of {self.device}",
            "balance": f"spread what is in the pool anew (data {self.data}, metadata {self.metadata})",
            "remove": f"remove {self.device} from the pool",
        }[self.do]


def plan(wanted: list[dict], members: list[dict], profiles: dict) -> list[Step]:
    """The steps; [] where the pool is as declared, as far as what is there allows.

    `wanted`: {"name": path, "member": id or 0, "there": bool, "size": bytes of the device}; `members`: {"id", "name":
    path, "missing", "size": bytes that btrfs uses of it}; `profiles` as btrfs.mounted tells them. A device that is
    declared and not there is waited for, and its place in the pool is kept.
    """
    steps: list[Step] = []
    new = [one for one in wanted if one["there"] and not one["member"]]
    stay = {one["member"] for one in wanted if one["member"]}
    away = sum(not one["there"] for one in wanted)
    leave = [one for one in members if one["missing"]] + [
        one for one in members if not one["missing"] and one["id"] not in stay
    ]
    for one in list(leave):
        fitting = [candidate for candidate in new if one["missing"] or candidate["size"] >= one["size"]]
        if fitting:
            new.remove(fitting[0])
            leave.remove(one)
            steps.append(Step("replace", fitting[0]["name"], one["id"]))
    steps += [Step("add", one["name"]) for one in new]
    waited = [one for one in leave if one["missing"]][:away]  # may be the declared ones, so they may come back
    leave = [one for one in leave if one not in waited]
    sizes = {one["member"]: one["size"] for one in wanted if one["member"]}
    steps += [
        Step("resize", one["name"], one["id"])
        for one in members
        if one["id"] in sizes and sizes[one["id"]] - one["size"] >= _SLACK
    ]
    present = sum(one["there"] for one in wanted)
    steps += _balance(len(wanted), present, profiles)
    return steps + [Step("remove", one["name"] or "missing", one["id"]) for one in leave]


def lacks(steps: list[Step], wanted: list[dict], used: dict) -> str:
    """Why what is in the pool, `used` as btrfs.mounted tells it, cannot do with what is left of it; "" where it can."""
    if not any(step.do == "remove" for step in steps):
        return ""
    sizes = [one["size"] for one in wanted if one["there"]]
    need = needed(used, len(sizes))
    have = capacity(sizes)
    if need <= have:
        return ""
    return f"what is in the pool needs {_mib(need)} with a reserve, the devices that are left hold {_mib(have)}"


def capacity(sizes: list[int]) -> int:
    """The bytes that devices of these sizes hold, each of them twice where there are several."""
    return min(sum(sizes) // 2, sum(sizes) - max(sizes)) if len(sizes) > 1 else sum(sizes)


def needed(used: dict, devices: int) -> int:
    """The bytes that what is used takes on so many devices, with a reserve; one device has its metadata twice."""
    beside = used["metadata"] + used["system"]
    plain = used["data"] + beside * (1 if devices > 1 else 2)
    return plain + max(_SPARE, plain // _SPARE_PART)


def _balance(declared: int, present: int, profiles: dict) -> list[Step]:
    """Two copies on two devices where there are several; a pool of one device is left as it was made."""
    there = {name for names in profiles.values() for name in names}
    if declared > 1 and present > 1 and there - {"raid1"}:
        return [Step("balance", data="raid1", metadata="raid1")]
    if declared == 1 and "raid1" in there:
        return [Step("balance", data="single", metadata="dup")]
    return []


def _mib(count: int) -> str:
    return f"{count // _MIB} MiB"
