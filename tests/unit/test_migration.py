"""What the admin's machine tells both ends of a migration, in which order, and what it does when one fails."""

import pytest

from appliance import migration, reach
from appliance.errors import CasemateError
from appliance.inventory import Host
from appliance.line import EndError
from appliance.migration import MOST_ROUNDS, SMALL, Migration, NotReady, Wanted, another_round, still_declared

BIG = 100 * SMALL


@pytest.mark.parametrize(
    ("sizes", "more"),
    [
        ([SMALL], False),
        ([BIG], True),
        ([BIG, SMALL], False),
        ([BIG, BIG // 2], True),
        ([BIG, BIG * 9 // 10], False),
        ([BIG, BIG * 2], False),
        ([BIG, BIG // 2, BIG // 4], True),
        ([BIG, BIG // 2, BIG // 2], False),
        ([BIG // 2**number for number in range(MOST_ROUNDS)], False),
    ],
)
def test_rounds_go_on_while_increments_shrink(sizes, more):
    assert another_round(sizes) == more


def host(name: str, *pods: str) -> Host:
    return Host(name, {"pods": [{"metadata": {"name": pod}} for pod in pods]} if pods else {}, ())


def test_a_pod_that_the_inventory_declares_for_its_source_is_told_with_the_cure():
    (words,) = still_declared(host("a", "shop", "blog"), [host("b"), host("c")], ["shop"])
    assert "declares shop for a" in words and "move them from its `pods` to those of b, c" in words
    assert still_declared(host("a", "blog"), [host("b")], ["shop"]) == []


CHECK = {"snapshots": True, "free": 1, "images": [], "documents": [["pods", "shop"]], "notes": [], "problems": []}
OFFER = {
    "snapshots": True, "pods": [{"name": "shop", "handler": "runc", "manifest": {}}],
    "volumes": [{"name": "orders", "bytes": BIG, "size": 0}], "documents": [],
    "images": [{"reference": "demo", "id": "sha256:1"}], "notes": [], "problems": [],
}  # fmt: skip


class Ends:
    """Ends that answer as they are told to, and remember what they were asked for."""

    def __init__(self, monkeypatch):
        self.said: list[str] = []
        self.answers = {"offer": OFFER, "check": CHECK, "unconfirmed": [], "let_go": ["/kept"], "start": "",
                        "has_image": True}  # fmt: skip
        self.sizes = iter([BIG, SMALL, 1])
        ends = self

        class Line:
            def __init__(self, where, end, identity=""):
                self.host = where

            def __enter__(self):
                return self

            def __exit__(self, *_):
                ends.said.append(f"{self.host.name}: closed")

            def ask(self, verb, **words):
                ends.said.append(f"{self.host.name}: {verb}")
                answer = ends.answers.get(f"{self.host.name} {verb}", ends.answers.get(verb))
                if isinstance(answer, Exception):
                    raise answer
                return answer

            tell = ask

        def relay(source, targets, moved):
            return next(self.sizes)

        monkeypatch.setattr(migration, "Line", Line)
        monkeypatch.setattr(migration, "relay", relay)
        monkeypatch.setattr(reach, "ask", lambda hosts, *words: [reach.Answer(hosts[0])])

    def at(self, words: str) -> int:
        return self.said.index(words)


@pytest.fixture
def ends(monkeypatch):
    return Ends(monkeypatch)


def moving(*targets: str, **options) -> Migration:
    return Migration(
        host("a"), [host(name) for name in targets or ("b",)], Wanted(("shop",)), report=lambda text: None, **options
    )


def test_the_source_lets_go_only_when_every_target_has_noted_that_it_is_ready(ends):
    told = moving("b", "c").move()
    assert [(one["bytes"], one["running"]) for one in told["rounds"]] == [(BIG, True), (SMALL, True), (1, False)]
    assert told["replaced"] == ["/kept"] and told["method"] == "snapshots"
    order = ["a: stop", "b: start", "b: arrived", "c: arrived", "a: let_go", "b: confirm", "c: confirm", "a: forget"]
    assert [ends.at(words) for words in order] == sorted(ends.at(words) for words in order)


def test_a_target_that_fails_keeps_the_source_from_letting_go(ends):
    ends.answers["c start"] = EndError("c: not ready after 5 s")
    with pytest.raises(
        CasemateError, match="not ready after 5 s\na: its pods run as before; what had come to b, c is undone"
    ):
        moving("b", "c").move()
    assert not {"a: let_go", "b: arrived", "c: arrived", "b: confirm"} & set(ends.said)
    assert {"a: closed", "b: closed", "c: closed"} <= set(ends.said)


def test_a_source_that_was_killed_while_targets_started_has_its_pods_and_they_have_not(ends):
    ends.answers["has_left"] = EndError("a: the connection broke")
    with pytest.raises(CasemateError, match="a: the connection broke\na: its pods run as before"):
        moving().move()
    assert "b: start" in ends.said and "b: arrived" not in ends.said


def test_a_target_that_cannot_note_its_arrival_takes_it_from_the_others(ends):
    ends.answers["c arrived"] = EndError("c: No space left on device")
    with pytest.raises(CasemateError, match="No space left"):
        moving("b", "c").move()
    assert ends.at("b: arrived") < ends.at("b: discard") and "a: let_go" not in ends.said


def test_a_copy_leaves_the_source_its_pods(ends):
    told = moving(keep=True).move()
    assert told["keep"] and told["replaced"] == [] and ends.at("a: start") < ends.at("b: start") < ends.at("b: confirm")
    assert not {"a: let_go", "a: forget"} & set(ends.said)


def test_a_plain_directory_at_either_end_means_that_files_are_copied_while_the_pod_is_stopped(ends):
    ends.answers["c check"] = CHECK | {"snapshots": False}
    told = moving("b", "c").move()
    assert told["method"] == "tar" and [one["running"] for one in told["rounds"]] == [False]
    assert ends.at("a: stop") < ends.at("a: send_tree") and "a: freeze" not in ends.said


def test_what_is_in_the_way_is_told_of_all_hosts_before_anything_is_touched(ends):
    ends.answers["c check"] = CHECK | {"problems": ["pod shop is declared there already"]}
    with pytest.raises(NotReady, match="nothing was touched:\n  c: pod shop is declared there already"):
        moving("b", "c").move()
    assert not {"b: begin", "a: stop"} & set(ends.said)


def test_an_image_goes_where_it_lacks_and_has_to_be_the_same_there(ends):
    ends.sizes = iter([5, BIG, SMALL, 1])
    ends.answers |= {"c check": CHECK | {"images": ["demo"]}, "has_image": False}
    with pytest.raises(CasemateError, match="c: image demo came, and is not the one that was sent"):
        moving("b", "c").move()
    assert "b: receive_image" not in ends.said and "a: stop" not in ends.said


def test_a_line_that_breaks_when_the_source_was_told_to_let_go_leaves_it_to_the_next_run(ends):
    ends.answers["let_go"] = EndError("a: the connection broke")
    with pytest.raises(CasemateError) as raised:
        moving().move()
    assert "whether a has let them go is not sure" in raised.value.message and "same command" in raised.value.cure
    assert "b: arrived" in ends.said and "b: confirm" not in ends.said


@pytest.mark.parametrize(("left", "verb"), [(True, "confirm"), (False, "discard")])
def test_what_an_earlier_run_left_is_brought_to_an_end(ends, left, verb):
    ends.answers |= {"unconfirmed": [{"id": "id0", "from": "a", "pods": ["shop"]}], "has_left": left}
    told = moving().move()
    assert told["unconfirmed"] == [{"host": "b", "id": "id0", "pods": ["shop"], "left": left}]
    assert ends.at(f"b: {verb}") < ends.at("b: begin")


def test_a_run_that_had_done_all_but_say_so_is_only_confirmed(ends):
    ends.answers |= {
        "unconfirmed": [{"id": "id0", "from": "a", "pods": ["shop"]}], "has_left": True,
        "offer": {"refused": "there is no pod shop"},
    }  # fmt: skip
    assert moving().plan()["done"]
    assert "b: confirm" not in ends.said
    assert moving().move()["done"] and "b: confirm" in ends.said and "b: begin" not in ends.said


def test_nothing_selected_is_told(ends):
    ends.answers["offer"] = {"refused": "there is no pod shop; there are: blog"}
    with pytest.raises(CasemateError, match="a: there is no pod shop; there are: blog"):
        moving().plan()


def test_an_arrival_from_another_host_is_not_ours_to_end(ends):
    ends.answers["unconfirmed"] = [{"id": "id0", "from": "z", "pods": ["shop"]}]
    assert moving().move()["unconfirmed"] == [] and "b: discard" not in ends.said
