"""The end that pods leave: they run until the last moment, and again when anything fails before they are let go."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from appliance.node.backup import contents, pool
from appliance.node.backup.selection import Filter, SelectionError

from . import offer, papers, pods, records, streams
from .session import MigrationError, Session


class Source:
    """What a migration asks of this host. The first half changes nothing; with `identity` "" there is no other."""

    def __init__(self, session: Session, identity: str) -> None:
        self._session, self._identity = session, identity
        self._offered: dict[str, Any] = {}
        self._stopped = contextlib.ExitStack()  # holds off what would start the pods again

    def verbs(self) -> dict:
        """What may be asked for, by name."""
        reading = {"offer": self.offer, "has_left": self.has_left}
        changing = {
            "documents": self.documents, "send_image": self.send_image, "freeze": self.freeze,
            "send_snapshot": self.send_snapshot, "send_tree": self.send_tree, "stop": self.stop, "start": self.start,
            "let_go": self.let_go, "forget": self.forget,
        }  # fmt: skip
        return reading | (changing if self._identity else {})

    def offer(self, pods: list[str], selector: str, exclude_pods: list[str]) -> dict[str, Any]:
        """See offer.offer; what is asked for afterwards is about that. {"refused": why} where nothing is selected."""
        try:
            self._offered = offer.offer(Filter(tuple(pods), selector, exclude_pods=tuple(exclude_pods)))
        except SelectionError as error:
            return {"refused": str(error)}
        return self._offered

    def has_left(self, identity: str) -> bool:
        """Whether this host has let go what that migration moved."""
        return (records.LEFT / f"{identity}.json").exists()

    def documents(self, wanted: list[list[str]]) -> list[dict[str, str]]:
        """The texts of documents [kind, name]: [{"kind", "name", "text"}]."""
        found = []
        for kind, name in wanted:
            if (path := papers.find(kind, name)) is None:
                raise MigrationError(f"{name} of {kind} is not there any more")
            found.append({"kind": kind, "name": name, "text": papers.text(path)})
        return found

    def send_image(self, reference: str) -> int:
        """Send an image's content; the number of bytes."""
        return streams.send_image(self._session, pods.stored(reference))

    def freeze(self, number: int) -> None:
        """Take round `number` of all volumes; they are sent one by one."""
        if records.load(records.LEAVING) is None:  # so that a host that loses power knows what to remove
            records.note(records.LEAVING, {"id": self._identity, "phase": "copying", "pods": []})
        streams.freeze(self._volumes(), number)

    def send_snapshot(self, name: str, number: int) -> int:
        return streams.send_snapshot(self._session, name, number)

    def send_tree(self, name: str) -> int:
        return streams.send_tree(self._session, name)

    def stop(self) -> None:
        """Stop the pods, each within its grace period. From here on undo() starts them again."""
        records.note(records.LEAVING, {"id": self._identity, "phase": "stopped", "pods": self._pods()})
        self._stopped.enter_context(pods.held())
        pods.stop(self._pods())

    def start(self, seconds: float) -> str:
        """Start the pods again, as they stay; why they are not ready after so many seconds, "" where they are."""
        self._stopped.close()
        undo()
        return pods.ready(self._pods(), seconds)

    def let_go(self) -> list[str]:
        """Remove the pods from here; where what they had is kept."""
        staying = [pod for name, pod in contents.catalog()[0].items() if name not in self._pods()]
        used = {named for pod in staying for named in offer.objects_of(pod)}
        documents = [
            str(papers.find(one["kind"], one["name"])) for one in reversed(self._offered["documents"])
            if (one["kind"], one["name"]) not in used
        ]  # fmt: skip
        note = {"id": self._identity, "phase": "letting go", "pods": self._pods(), "volumes": self._volumes(),
                "documents": documents}  # fmt: skip
        records.note(records.LEAVING, note)
        with self._stopped:  # until nothing declares the pods any more
            return _let_go(note)

    def forget(self, identity: str) -> None:
        """Every target knows that this host has let go; nobody will ask again."""
        records.drop(records.LEFT / f"{identity}.json")

    def _pods(self) -> list[str]:
        return [one["name"] for one in self._offered["pods"]]

    def _volumes(self) -> list[str]:
        return [one["name"] for one in self._offered["volumes"]]


def undo() -> None:
    """Bring this host out of a migration: pods run again, or, where all was told that they moved, are let go of."""
    note = records.load(records.LEAVING)
    if note and note["phase"] == "letting go":
        _say(f"{', '.join(note['pods'])} moved away in migration {note['id']}: letting go")
        with pods.held():
            _let_go(note)
        note = None
    streams.drop(streams.LEAVING)
    if note:
        again = f"starting {', '.join(note['pods'])} again" if note["pods"] else "its snapshots are removed"
        _say(f"migration {note['id']} did not come to its end: {again}")
        pods.start(note["pods"])
        records.drop(records.LEAVING)


def _say(text: str) -> None:
    print(f"casemate-migrate: {text}", file=sys.stderr)


def _let_go(note: dict[str, Any]) -> list[str]:
    """Done within `pods.held`. Can be cut off anywhere and be done again: what is away already is passed over."""
    kept = [papers.put_away(Path(path)) for path in note["documents"]]
    pods.remove(note["pods"])
    for name in note["volumes"]:
        place = pool.POOL / "volumes" / name
        if place.exists():
            kept.append(str(streams.put_away(place)))
    records.promote(records.LEAVING, records.LEFT, note["id"])
    return [path for path in kept if path]
