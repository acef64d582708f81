"""The end that pods come to: all that was brought goes again when anything fails before they are ready."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from appliance.node.backup import pool

from . import offer, papers, records, streams
from . import pods as here
from .session import MigrationError, Session


class Target:
    """What a migration asks of this host. The first half changes nothing; with `identity` "" there is no other."""

    def __init__(self, session: Session, identity: str) -> None:
        self._session, self._identity = session, identity
        self._note: dict[str, Any] = {}
        self._documents: list[dict[str, str]] = []

    def verbs(self) -> dict:
        """What may be asked for, by name."""
        reading = {"unconfirmed": records.unconfirmed, "check": self.check}
        changing = {
            "confirm": self.confirm, "discard": self.discard, "begin": self.begin, "receive_image": self.receive_image,
            "has_image": self.has_image, "documents": self.documents, "receive_snapshot": self.receive_snapshot,
            "receive_tree": self.receive_tree, "start": self.start, "arrived": self.arrived,
        }  # fmt: skip
        return reading | (changing if self._identity else {})

    def check(self, offered: dict[str, Any], ignored: list[str]) -> dict[str, Any]:
        """See offer.check; `ignored` are ids of arrivals."""
        return offer.check(offered, [one for one in records.unconfirmed() if one["id"] in ignored])

    def confirm(self, identity: str) -> None:
        """The source of that migration has let go: what it brought is this host's."""
        records.drop(records.ARRIVED / f"{identity}.json")

    def discard(self, identity: str) -> list[str]:
        """The source of that migration never let go, and goes on with what it has: put away what came of it."""
        note = records.load(records.ARRIVED / f"{identity}.json")
        if note is None:
            return []
        with here.held():
            kept = [papers.put_away(Path(path)) for path in reversed(note["documents"])]
            here.remove(note["pods"])
        for name in note["volumes"]:
            place = pool.POOL / "volumes" / name
            if place.exists():
                kept.append(str(streams.put_away(place)))
        self.confirm(identity)
        return [path for path in kept if path]

    def begin(self, source: str, pods: list[str], volumes: list[dict], documents: list[list[str]]) -> None:
        """Note what is about to come: from here on undo() removes it. `source` is a host's name, for people."""
        self._note = {
            "id": self._identity, "from": source, "phase": "receiving", "pods": pods, "displaced": {}, "unplaced": [],
            "volumes": [one["name"] for one in volumes],
            "documents": [str(papers.place(kind, name)) for kind, name in documents],
        }  # fmt: skip
        self._sizes = {one["name"]: one["size"] for one in volumes}
        records.note(records.ARRIVING, self._note)

    def receive_image(self) -> int:
        return streams.receive_image(self._session)

    def has_image(self, reference: str, identity: str) -> bool:
        """Whether a reference names this very image here."""
        return here.comes_to_be(reference, identity)

    def documents(self, documents: list[dict[str, str]]) -> None:
        """What `start` is to declare: [{"kind", "name", "text"}]; nothing is written before."""
        self._documents = documents

    def receive_snapshot(self, name: str, number: int) -> int:
        return streams.receive_snapshot(self._session, name, number)

    def receive_tree(self, name: str) -> int:
        return streams.receive_tree(self._session, name, self._sizes[name])

    def start(self, seconds: float, snapshots: bool) -> None:
        """Put volumes and documents in their places and wait until the pods are ready. Raises MigrationError."""
        if snapshots:
            for name in self._note["volumes"]:
                streams.unfold(name, self._sizes[name])
        self._note["phase"] = "placing"
        records.note(records.ARRIVING, self._note)
        for name in self._note["volumes"]:
            there = pool.POOL / "volumes" / name
            if there.exists() and any(there.iterdir()):
                raise MigrationError(f"{there} has come meanwhile, and is not empty: move it away")
            if there.exists():
                away = streams.kept_place(name)
                self._note["displaced"][name] = str(away)
                records.note(records.ARRIVING, self._note)
                there.rename(away)
            pool.exchange(streams.prepared(name), name)
        for one in self._documents:
            papers.write(one["kind"], one["name"], one["text"])
        if trouble := here.ready(self._note["pods"], seconds):
            raise MigrationError(f"not ready after {seconds:g} s: {trouble}")

    def arrived(self) -> None:
        """The pods are ready and stay, whatever comes; only whether their source has let go is not known yet."""
        records.promote(records.ARRIVING, records.ARRIVED, self._identity)
        streams.drop(streams.ARRIVING)
        streams.tidy()
        for away in self._note["displaced"].values():  # an empty one, which nobody had used yet
            pool.drop(Path(away))


def undo() -> None:
    """Remove all that a migration brought here that never came to its end. Can be cut off and be done again."""
    note = records.load(records.ARRIVING)
    if note:
        text = f"migration {note['id']} did not come to its end: removing what came of {', '.join(note['pods'])}"
        print(f"casemate-migrate: {text}", file=sys.stderr)
    if note and note["phase"] == "placing":
        with here.held():
            for path in note["documents"]:
                Path(path).unlink(missing_ok=True)
            here.remove(note["pods"])
    streams.drop(streams.ARRIVING)
    if note:
        # noted before anything is removed: what is in the place of one that never came there is another's
        note["unplaced"] = [name for name in note["volumes"] if _is_unplaced(note, name)]
        records.note(records.ARRIVING, note)
        for name in note["unplaced"]:
            pool.drop(streams.prepared(name))
        for name in [name for name in note["volumes"] if name not in note["unplaced"]]:
            pool.drop(pool.POOL / "volumes" / name)
            note["volumes"].remove(name)
            records.note(records.ARRIVING, note)
        for name, away in note["displaced"].items():
            there = pool.POOL / "volumes" / name
            if Path(away).exists() and not there.exists():
                Path(away).rename(there)
        streams.tidy()
        records.drop(records.ARRIVING)


def _is_unplaced(note: dict[str, Any], name: str) -> bool:
    return note["phase"] != "placing" or name in note["unplaced"] or streams.prepared(name).exists()
