"""Moving pods from one host to others: led from here, since the hosts need no way to each other.

What is told to both ends, in order: images, then volumes while the pods run, round after round; the pods are stopped; a
last round; they start on the targets; when they are ready there, and only then, the source lets go. Whatever ends
before undoes itself (appliance/node/migrate).
"""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from appliance import reach
from appliance.errors import CasemateError
from appliance.inventory import Host
from appliance.line import Line, relay

SMALL = 16 << 20  # bytes: so much is sent in the time in which a pod starts
MOST_ROUNDS = 6
SHRINKS = 0.7  # an increment is worth another round while it is so much smaller than the one before
_SAY_SECONDS = 1.0
_SERVING_SECONDS = 60


@dataclass(frozen=True)
class Wanted:
    """Which pods: names, a label selector, and names to leave out; nothing at all means every pod."""

    pods: Sequence[str] = ()
    selector: str = ""
    exclude_pods: Sequence[str] = ()

    def words(self) -> dict[str, object]:
        """The same for `casemate-migrate`."""
        return {"pods": list(self.pods), "selector": self.selector, "exclude_pods": list(self.exclude_pods)}


class NotReady(CasemateError):
    """Something is in the way; nothing was touched."""


def another_round(sizes: Sequence[int]) -> bool:
    """Whether to send one more increment while the pods run, after rounds of so many bytes."""
    if sizes[-1] <= SMALL or len(sizes) >= MOST_ROUNDS:
        return False
    return len(sizes) == 1 or sizes[-1] < SHRINKS * sizes[-2]


def still_declared(source: Host, targets: Sequence[Host], pods: Sequence[str]) -> list[str]:
    """What the inventory says against a migration of these pods, each with its cure."""
    words = []
    if there := [name for name in pods if name in _declared(source)]:
        words.append(
            f"the inventory declares {', '.join(there)} for {source.name}, whose next deploy brings them back there: "
            f"move them from its `pods` to those of {', '.join(host.name for host in targets)}"
        )
    return words


def _declared(host: Host) -> set[str]:
    pods = host.vars.get("pods")
    if not isinstance(pods, list):
        return set()
    return {pod["metadata"]["name"] for pod in pods if isinstance(pod, dict) and isinstance(pod.get("metadata"), dict)}


@dataclass
class Migration:
    """One migration. `keep`: the source's pods go on, and the targets get a copy; `seconds` to wait for ready pods."""

    source: Host
    targets: Sequence[Host]
    wanted: Wanted
    keep: bool = False
    seconds: float = 300
    report: Callable[[str], None] = print
    phases: list[dict] = field(default_factory=list)
    rounds: list[dict] = field(default_factory=list)

    def plan(self) -> dict[str, Any]:
        """What would be moved, how, and what is in the way; nothing is changed.

        {"from", "to": [host], "method": snapshots or tar, "keep", "pods": [name], "volumes": [{"name", "bytes",
        "size"}], "images": [reference], "documents": [[kind, name]], "notes", "problems": [{"host", "text"}],
        "unconfirmed": [{"host", "id", "pods", "left"}]: what a run before, that was cut off, has left.} Where that run
        had come so far that the source let go, and nothing more is selected, "done" is true. Raises CasemateError.
        """
        with contextlib.ExitStack() as held:
            source = held.enter_context(Line(self.source, "source"))
            targets = [held.enter_context(Line(host, "target")) for host in self.targets]
            return self._look(source, targets)[0]

    def move(self) -> dict[str, Any]:
        """Do it: `plan`'s answer with "id", "phases": [{"phase", "seconds"}], "rounds": [{"round", "bytes", "seconds",
        "running": whether pods ran meanwhile}], "downtime" in seconds, and "replaced": where the source keeps what it
        had. Raises NotReady, CasemateError: then the source's pods run.
        """
        identity = uuid.uuid4().hex[:12]
        progress = {"stopped": False, "told to let go": False}
        try:
            with contextlib.ExitStack() as held:
                source = held.enter_context(Line(self.source, "source", identity))
                targets = [held.enter_context(Line(host, "target", identity)) for host in self.targets]
                return {"id": identity} | self._move(source, targets, identity, progress)
        except CasemateError as error:
            raise self._explained(error, progress) from None

    def _look(self, source: Line, targets: list[Line]) -> tuple[dict[str, Any], dict, list[dict]]:
        """The plan, and of what it was made: the source's offer and the targets' checks."""
        unconfirmed = [
            {"host": target.host.name, "id": one["id"], "pods": one["pods"],
             "left": source.ask("has_left", identity=one["id"])}
            for target in targets for one in target.ask("unconfirmed") if one["from"] == self.source.name
        ]  # fmt: skip
        plan: dict[str, Any] = {
            "from": self.source.name, "to": [host.name for host in self.targets], "keep": self.keep,
            "unconfirmed": unconfirmed,
        }  # fmt: skip
        offered = source.ask("offer", **self.wanted.words())
        if not offered.get("pods"):
            if any(one["left"] for one in unconfirmed):
                return plan | {"done": True}, {}, []
            words = offered.get("refused") or "no pod is selected"
            raise CasemateError(f"{self.source.name}: {words}", cure="appliance pods")
        names = [one["name"] for one in offered["pods"]]
        checks = []
        for target in targets:
            again = [one["id"] for one in unconfirmed if one["host"] == target.host.name and not one["left"]]
            checks.append(target.ask("check", offered=offered, ignored=again))
        told = [(source.host.name, offered), *zip(plan["to"], checks, strict=True)]
        notes = still_declared(self.source, self.targets, names) if not self.keep else []
        return plan | {
            "done": False,
            "method": "snapshots" if all(one["snapshots"] for one in (offered, *checks)) else "tar",
            "pods": names,
            "volumes": offered["volumes"],
            "images": sorted({reference for check in checks for reference in check["images"]}),
            "documents": [list(one) for one in sorted({tuple(one) for check in checks for one in check["documents"]})],
            "notes": [f"{host}: {note}" for host, one in told for note in one["notes"]] + notes,
            "problems": [{"host": host, "text": text} for host, one in told for text in one["problems"]],
        }, offered, checks  # fmt: skip

    def _move(self, source: Line, targets: list[Line], identity: str, progress: dict) -> dict[str, Any]:
        with self._phase("looking"):
            plan, offered, checks = self._look(source, targets)
            if plan["done"]:
                self._settle(targets, plan)
                return plan | self._told(0, [])
            if plan["problems"]:
                raise NotReady(_listed(plan["problems"]), cure="appliance migrate --dry-run, when that is put right")
            self._settle(targets, plan)
            for target, check in zip(targets, checks, strict=True):
                target.ask("begin", source=self.source.name, pods=plan["pods"], volumes=plan["volumes"],
                           documents=check["documents"])  # fmt: skip
                target.ask("documents", documents=source.ask("documents", wanted=check["documents"]))
        if plan["images"]:
            with self._phase("images"):
                self._send_images(source, targets, offered, checks)
        volumes = [one["name"] for one in plan["volumes"]]
        if plan["method"] == "snapshots" and volumes:
            with self._phase("copying while running"):
                self._round(source, targets, volumes, running=True)
                while another_round([one["bytes"] for one in self.rounds]):
                    self._round(source, targets, volumes, running=True)
        began = time.monotonic()
        with self._phase("stopping"):
            progress |= {"stopped": True, "pods": plan["pods"]}
            source.ask("stop")
        with self._phase("last increment"):
            if plan["method"] == "snapshots" and volumes:
                self._round(source, targets, volumes, running=False)
            elif volumes:
                self._trees(source, targets, volumes)
        if self.keep:
            with self._phase("starting again"):
                if trouble := source.ask("start", seconds=self.seconds):
                    raise CasemateError(f"{self.source.name}: {trouble}")
                downtime = time.monotonic() - began
        with self._phase("starting"), ThreadPoolExecutor(len(targets)) as threads:
            snapshots = plan["method"] == "snapshots"
            starting = [threads.submit(one.ask, "start", seconds=self.seconds, snapshots=snapshots) for one in targets]
            for one in starting:
                one.result()
        if not self.keep:
            downtime = time.monotonic() - began
        with self._phase("letting go"):
            source.ask("has_left", identity=identity)  # a source that is gone by now has started its pods again
            self._arrive(targets, identity)
            progress["told to let go"] = not self.keep
            replaced = [] if self.keep else source.ask("let_go")
            for target in targets:
                target.ask("confirm", identity=identity)
            if not self.keep:
                source.ask("forget", identity=identity)
            for line in (source, *targets):
                line.ask("bye")
        return plan | self._told(downtime, replaced)

    def _arrive(self, targets: list[Line], identity: str) -> None:
        """From here on what came stays, whatever comes; on all targets, or on none."""
        arrived: list[Line] = []
        try:
            for target in targets:
                target.ask("arrived")
                arrived.append(target)
        except CasemateError:
            for target in arrived:
                with contextlib.suppress(CasemateError):  # the next run finds it, and does the same
                    target.ask("discard", identity=identity)
            raise

    def _settle(self, targets: list[Line], plan: dict) -> None:
        """Bring what a run before had left to an end."""
        for target in targets:
            for one in plan["unconfirmed"]:
                if one["host"] == target.host.name:
                    target.ask("confirm" if one["left"] else "discard", identity=one["id"])

    def _send_images(self, source: Line, targets: list[Line], offered: dict, checks: list[dict]) -> None:
        for image in offered["images"]:
            reference = image["reference"]
            lacking = [one for one, check in zip(targets, checks, strict=True) if reference in check["images"]]
            if not lacking:
                continue
            self._relay(source, lacking, f"image {reference}", ("send_image", {"reference": reference}),
                        ("receive_image", {}))  # fmt: skip
            for target in lacking:
                if not target.ask("has_image", reference=reference, identity=image["id"]):
                    raise CasemateError(f"{target.host.name}: image {reference} came, and is not the one that was sent")

    def _round(self, source: Line, targets: list[Line], volumes: list[str], running: bool) -> None:
        number, began = len(self.rounds), time.monotonic()
        source.ask("freeze", number=number)
        moved = 0
        for name in volumes:
            words = {"name": name, "number": number}
            moved += self._relay(
                source, targets, f"volume {name}, round {number + 1}", ("send_snapshot", words),
                ("receive_snapshot", words),
            )  # fmt: skip
        self._count(moved, began, running)

    def _trees(self, source: Line, targets: list[Line], volumes: list[str]) -> None:
        began, moved = time.monotonic(), 0
        for name in volumes:
            words = {"name": name}
            moved += self._relay(source, targets, f"volume {name}", ("send_tree", words), ("receive_tree", words))
        self._count(moved, began, running=False)

    def _count(self, moved: int, began: float, running: bool) -> None:
        seconds = round(time.monotonic() - began, 2)
        self.rounds.append({"round": len(self.rounds) + 1, "bytes": moved, "seconds": seconds, "running": running})

    def _relay(self, source: Line, targets: list[Line], what: str, send: tuple, receive: tuple) -> int:
        began = said = time.monotonic()
        moved = 0

        def count(size: int) -> None:
            nonlocal moved, said
            moved += size
            if (now := time.monotonic()) - said > _SAY_SECONDS:
                said = now
                self.report(f"{what}: {moved >> 20} MiB, {(moved >> 20) / (now - began):.0f} MiB/s")

        for target in targets:
            target.tell(receive[0], **receive[1])
        source.tell(send[0], **send[1])
        return relay(source, targets, count)

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self.report(name)
        began = time.monotonic()
        try:
            yield
        finally:
            self.phases.append({"phase": name, "seconds": round(time.monotonic() - began, 2)})

    def _told(self, downtime: float, replaced: list[str]) -> dict[str, Any]:
        return {"phases": self.phases, "rounds": self.rounds, "downtime": round(downtime, 2), "replaced": replaced}

    def _explained(self, error: CasemateError, progress: dict) -> CasemateError:
        """The error with what holds now."""
        targets, cure = ", ".join(host.name for host in self.targets), error.cure
        if progress["told to let go"]:
            words = f"The pods are ready on {targets}; whether {self.source.name} has let them go is not sure"
            cure = "run the same command again: it finds out, and ends what was begun"
        elif progress["stopped"]:
            wait = [f"--wait={_SERVING_SECONDS}", *(f"--for={name}" for name in progress["pods"])]
            (answer,) = reach.ask([self.source], reach.POD_PROGRAM, "sync", "--output=json", *wait)
            words = f"{self.source.name}: {answer.error or 'its pods run as before'}"
            words += f"; what had come to {targets} is undone there"
        else:
            return error
        return type(error)(f"{error.message}\n{words}", place=error.place, cure=cure)


def _listed(problems: list[dict]) -> str:
    return "in the way, and nothing was touched:" + "".join(f"\n  {one['host']}: {one['text']}" for one in problems)
