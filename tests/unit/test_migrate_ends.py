"""What the ends of a migration do to their hosts, cut off at each step: nothing is lost, and nothing is left."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from appliance.node.backup import contents, pool
from appliance.node.migrate import offer, papers, pods, records, source, streams, target
from appliance.node.migrate.session import MigrationError
from appliance.node.pods.manifest import Pod


class Killed(BaseException):
    """This process is gone."""


def document(name: str, *claims: str, port: int = 0, secret: str = "") -> dict:
    container = {"name": "main", "image": "demo"} | (
        {"ports": [{"containerPort": 1, "hostPort": port}]} if port else {}
    )
    if secret:
        container["envFrom"] = [{"secretRef": {"name": secret}}]
    volumes = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"containers": [container], "volumes": volumes}}  # fmt: skip


class Machine:
    """A host whose pool is a plain directory, with no engine: what runs is a set of names."""

    def __init__(self, root: Path, monkeypatch):
        self.root, self.running, self.images, self.locked = root, set(), {}, False
        self.pool, self.etc = root / "pool", root / "etc"
        (self.pool / "volumes").mkdir(parents=True)
        for kind in papers.KINDS:
            (self.etc / kind).mkdir(parents=True)
            monkeypatch.setitem(contents.FOLDERS, kind, self.etc / kind)
        monkeypatch.setattr(pool, "POOL", self.pool)
        monkeypatch.setattr(pool.is_btrfs, "__defaults__", (self.pool,))
        monkeypatch.setattr(pool.prepare, "__defaults__", (self.pool,))
        monkeypatch.setattr(pool.exchange, "__defaults__", (self.pool,))
        for name in ("LEAVING", "ARRIVING", "LEFT", "ARRIVED", "STATE"):
            old = getattr(records, name)
            monkeypatch.setattr(
                records, name, root / "state" / old.relative_to(old.parents[0] if name != "STATE" else old)
            )
        monkeypatch.setattr(contents, "catalog", self.catalog)
        monkeypatch.setattr(offer, "_host_problems", list)
        for name, does in {
            "held": self.held, "stop": self.stop, "remove": self.stop, "start": self.start, "ready": self.ready,
            "handlers": lambda: ["microvm", "runc"], "image": lambda reference: self.images.get(reference, ""),
        }.items():  # fmt: skip
            monkeypatch.setattr(pods, name, does)

    def catalog(self):
        pods = {}
        for path in sorted((self.etc / "pods").glob("*.yaml")):
            pods[path.stem] = Pod(yaml.safe_load(path.read_text()), str(path), "runc")
        volumes = sorted(path.name for path in (self.pool / "volumes").iterdir())
        return pods, [contents._as_selectable(pod) for pod in pods.values()], volumes

    @contextmanager
    def held(self):
        """A lock that its holder cannot take twice; what waits for it starts what is declared, as a sync does."""
        assert not self.locked
        self.locked = True
        try:
            yield
        finally:
            self.locked = False
            self.running |= set(self.catalog()[0])

    def stop(self, names):
        self.running -= set(names)

    def start(self, names):
        self.running |= set(names)

    def ready(self, names, seconds):
        self.running |= set(self.catalog()[0])
        return ""

    def declare(self, kind: str, made: dict, text: str = "") -> None:
        (self.etc / kind / f"{made['metadata']['name']}.yaml").write_text(text + yaml.safe_dump(made))

    def volume(self, name: str, *files: str) -> None:
        (self.pool / "volumes" / name).mkdir()
        for file in files:
            (self.pool / "volumes" / name / file).write_text(file)

    def tree(self) -> dict[str, str]:
        """All documents and volumes that count, and what runs."""
        found = {
            str(path.relative_to(self.root)): path.read_text() if path.is_file() else ""
            for place in (self.etc, self.pool) for path in place.rglob("*")
            if not path.is_relative_to(self.pool / "replaced")
        }  # fmt: skip
        return found | {"running": " ".join(sorted(self.running))}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def giving(machine):
    """A source with a pod that moves, and one that stays and needs the same Secret."""
    machine.declare("pods", document("shop", "orders", secret="key"), "# Written by Casemate from pods\n")
    machine.declare("pods", document("blog", secret="shared"))
    machine.declare("secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}})
    machine.declare("secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shared"}})
    machine.volume("orders", "lines")
    machine.images["demo"] = "sha256:1"
    machine.running = {"shop", "blog"}
    return machine


def leaving(machine) -> source.Source:
    end = source.Source(None, "id1")
    end.offer(["shop"], "", [])
    return end


def killed_after(monkeypatch, module, name: str, count: int) -> None:
    """Have the process be killed right after the count-th call of a function."""
    real, calls = getattr(module, name), iter(range(10_000))

    def call(*words, **named):
        answer = real(*words, **named)
        if next(calls) + 1 == count:
            raise Killed
        return answer

    monkeypatch.setattr(module, name, call)


STEPS_OF_LEAVING = [(records, "note", 1), (pods, "stop", 1), (records, "note", 2), (papers, "put_away", 1),
                    (papers, "put_away", 2), (pods, "remove", 1), (streams, "put_away", 1)]  # fmt: skip


@pytest.mark.parametrize("step", [*STEPS_OF_LEAVING, None])
def test_a_source_that_is_killed_runs_its_pods_or_has_let_go_of_all(giving, monkeypatch, step):
    before, end = giving.tree(), leaving(giving)
    with monkeypatch.context() as patch:
        if step:
            killed_after(patch, *step)
        try:
            end.stop()
            assert giving.running == {"blog"}
            end.let_go()
        except Killed:
            pass
        end._stopped.close()  # as the kernel does
    source.undo()
    told = STEPS_OF_LEAVING.index(step) >= 2 if step else True
    assert source.Source(None, "").has_left("id1") == told
    if not told:
        assert giving.tree() == before
    else:
        assert giving.tree() == {
            path: text for path, text in before.items()
            if not path.endswith(("shop.yaml", "key.yaml")) and "orders" not in path
        } | {"running": "blog"}  # fmt: skip
        kept = {path.name.rpartition("-")[0] for path in (giving.pool / "replaced").iterdir()}
        assert kept == {"orders", "pods-shop.yaml", "secrets-key.yaml"}
    assert not records.LEAVING.exists()


def arriving(machine) -> target.Target:
    end = target.Target(None, "id1")
    end.begin("one", ["shop"], [{"name": "orders", "size": 0}], [["secrets", "key"], ["pods", "shop"]])
    place = pool.prepare("orders", 0)
    (place / "lines").write_text("1")
    end.documents([{"kind": "secrets", "name": "key", "text": "kind: Secret"},
                   {"kind": "pods", "name": "shop", "text": yaml.safe_dump(document("shop", "orders"))}])  # fmt: skip
    return end


STEPS_OF_ARRIVING = [(records, "note", 1), (pool, "exchange", 1), (records, "note", 2), (papers, "write", 1),
                     (papers, "write", 2), (pods, "ready", 1)]  # fmt: skip


# the second note is of an empty volume that made room
CASES = [(step, empty) for step in STEPS_OF_ARRIVING for empty in (False, True) if empty or step[1:] != ("note", 2)]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("step", "empty"), CASES)
def test_a_target_that_is_killed_has_what_it_had(machine, monkeypatch, step, empty, again):
    machine.declare("pods", document("blog"))
    if empty:  # a volume that the inventory declared, and nobody has used yet
        machine.volume("orders")
    machine.running = {"blog"}
    before, end = machine.tree(), arriving(machine)
    with monkeypatch.context() as patch:
        killed_after(patch, *step)
        with pytest.raises(Killed):
            end.start(1, snapshots=False)
    if again:  # the undoing is killed, too
        with monkeypatch.context() as patch:
            killed_after(patch, pool, "drop", 1)
            with pytest.raises(Killed):
                target.undo()
    target.undo()
    after = machine.tree()
    assert {path for path in after if ".restoring" not in path} == set(before)
    assert after["running"] == "blog" and not records.ARRIVING.exists()


def test_what_arrived_stays_until_its_source_is_known_not_to_have_let_go(machine):
    end = arriving(machine)
    end.start(1, snapshots=False)
    end.arrived()
    target.undo()
    (one,) = records.unconfirmed()
    assert (one["id"], one["from"], one["pods"]) == ("id1", "one", ["shop"]) and machine.running == {"shop"}
    kept = target.Target(None, "id2").discard("id1")
    assert records.unconfirmed() == [] and machine.running == set() and not list((machine.pool / "volumes").iterdir())
    assert sorted(Path(path).name.rpartition("-")[0] for path in kept) == [
        "orders",
        "pods-shop.yaml",
        "secrets-key.yaml",
    ]
    assert target.Target(None, "id3").discard("id1") == []


@pytest.mark.parametrize("again", [False, True])
def test_what_has_come_meanwhile_is_not_overwritten(machine, monkeypatch, again):
    end = arriving(machine)
    machine.volume("orders", "somebody's")
    with pytest.raises(MigrationError, match="has come meanwhile"):
        end.start(1, snapshots=False)
    if again:
        with monkeypatch.context() as patch:
            killed_after(patch, pool, "drop", 1)
            with pytest.raises(Killed):
                target.undo()
    target.undo()
    assert (machine.pool / "volumes/orders/somebody's").exists()


def test_an_offer_says_what_moves_and_what_does_not(giving):
    told = offer.offer(offer.Filter(selector="app=shop"))
    assert [one["name"] for one in told["pods"]] == ["shop"] and [one["name"] for one in told["volumes"]] == ["orders"]
    assert [(one["kind"], one["name"]) for one in told["documents"]] == [("secrets", "key"), ("pods", "shop")]
    assert told["images"] == [{"reference": "demo", "id": "sha256:1"}] and told["problems"] == []
    giving.declare("pods", document("blog", "orders"))
    assert offer.offer(offer.Filter(pods=("shop",)))["problems"] == [
        "pod blog stays, and uses volume orders of pod shop: select it, too"
    ]
    giving.declare("pods", document("shop", "nothing"))
    assert offer.offer(offer.Filter(pods=("shop",)))["problems"] == [
        "pod shop claims volume nothing, which is not there"
    ]


def offered(port: int = 0, size: int = 1, runtime: str = "", secret: str = "sum") -> dict:
    pod, image = document("shop", "orders", port=port), {"reference": "demo", "id": "sha256:1"}
    if runtime:
        pod["spec"]["runtimeClassName"] = runtime
    return {"pods": [{"name": "shop", "handler": runtime or "microvm", "manifest": pod}],
            "volumes": [{"name": "orders", "bytes": size, "size": 0}], "images": [image],
            "documents": [{"kind": "secrets", "name": "key", "sha256": secret}, {"kind": "pods", "name": "shop",
                                                                                "sha256": ""}]}  # fmt: skip


def test_nothing_is_in_the_way_on_an_empty_host(machine):
    told = offer.check(offered(), [])
    assert told["problems"] == [] and told["images"] == ["demo"] and told["documents"] == [["secrets", "key"],
                                                                                          ["pods", "shop"]]  # fmt: skip
    machine.volume("orders")  # declared, and empty
    assert offer.check(offered(), [])["problems"] == []


IN_THE_WAY = {
    "pod shop is declared there already": lambda m: m.declare("pods", document("shop")),
    "volume orders is there already, and is not empty": lambda m: m.volume("orders", "x"),
    "volume orders is there already, and pod blog uses it": lambda m: (m.volume("orders"),
                                                                      m.declare("pods", document("blog", "orders"))),
    "key.yaml is there already, and says something else": lambda m: m.declare("secrets", {"metadata": {"name": "key"}}),
    "port 8099/TCP of pod shop is taken there by pod blog": lambda m: m.declare("pods", document("blog", port=8099)),
    "image demo is another one there, which pod blog uses": lambda m: (m.images.update(demo="sha256:2"),
                                                                      m.declare("pods", document("blog"))),
}  # fmt: skip


@pytest.mark.parametrize("words", IN_THE_WAY)
def test_what_is_in_the_way_is_named(machine, words):
    IN_THE_WAY[words](machine)
    problems = offer.check(offered(port=8099), [])["problems"]
    assert [problem for problem in problems if words in problem], problems


def test_what_the_host_lacks_is_named(machine):
    assert (
        "needs the runtime gvisor; there are microvm, runc" in offer.check(offered(runtime="gvisor"), [])["problems"][0]
    )
    assert "MiB are to come" in offer.check(offered(size=1 << 60), [])["problems"][0]


def test_an_arrival_that_will_be_put_away_is_not_in_the_way(machine):
    end = arriving(machine)
    end.start(1, snapshots=False)
    end.arrived()
    assert len(offer.check(offered(), [])["problems"]) >= 2
    assert offer.check(offered(), records.unconfirmed())["problems"] == []
