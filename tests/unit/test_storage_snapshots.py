"""Snapshots: what is kept over a year, what is due, and what goes when the pool is full."""

from datetime import UTC, datetime, timedelta

import pytest

from appliance.node.storage import keep, snapshots
from appliance.node.storage.declared import Declared, StorageError

START = datetime(2026, 1, 1, tzinfo=UTC)
YEAR = 365 * 24


def a_year(policy: dict[str, int], schedule: str = "hourly") -> list[datetime]:
    """What is there after a year of a timer that rings each hour, a minute late."""
    there: list[datetime] = []
    for hour in range(YEAR):
        now = START + timedelta(hours=hour, minutes=1)
        if keep.is_due(there, schedule, now):
            there.append(now)
        there = sorted(keep.kept(there, policy))
    return there


def test_a_year_of_hours_and_days_leaves_exactly_those():
    end = START + timedelta(hours=YEAR - 1, minutes=1)
    hours = {end - timedelta(hours=n) for n in range(24)}
    days = {end - timedelta(days=n) for n in range(7)}  # each day's last is that of 23:01
    assert set(a_year({"hourly": 24, "daily": 7})) == hours | days


def test_a_year_of_all_periods_leaves_the_last_of_each():
    left = a_year({"last": 1, "hourly": 3, "daily": 4, "weekly": 5, "monthly": 6, "yearly": 2})
    end = datetime(2026, 12, 31, 23, 1, tzinfo=UTC)
    sundays = [datetime(2026, 12, day, 23, 1, tzinfo=UTC) for day in (27, 20, 13, 6)]
    months = [datetime(2026, month, day, 23, 1, tzinfo=UTC)
              for month, day in ((11, 30), (10, 31), (9, 30), (8, 31), (7, 31))]  # fmt: skip
    expected = {end - timedelta(hours=n) for n in range(3)} | {end - timedelta(days=n) for n in range(4)}
    assert set(left) == expected | set(sundays) | set(months)


@pytest.mark.parametrize(("schedule", "count"), [("daily", 365), ("weekly", 53), ("monthly", 12)])
def test_a_schedule_makes_one_each_period(schedule, count):
    assert len(a_year({"last": YEAR}, schedule)) == count


def test_a_host_that_was_off_makes_the_one_that_is_due_and_no_second():
    there = [START]
    late = START + timedelta(days=3, hours=5)
    assert keep.is_due(there, "daily", late)
    assert not keep.is_due([*there, late], "daily", late + timedelta(hours=1))


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """A pool of directories; `full` snapshots leave less than the spare free."""

    class Pool:
        path, full = tmp_path / "pool", 99

        def count(self) -> int:
            return sum(len(found) for found in snapshots.everything(self.path).values())

        def run(self, *command: str) -> str:
            if command[2] == "delete":
                (self.path / command[-1]).rmdir()
            return ""

    made = Pool()
    (made.path / "volumes/orders").mkdir(parents=True)
    inode = (made.path / "volumes/orders").stat().st_ino
    monkeypatch.setattr(snapshots, "_SUBVOLUME", inode)
    monkeypatch.setattr(snapshots, "STATUS", tmp_path / "status.json")
    monkeypatch.setattr(snapshots, "run", made.run)
    monkeypatch.setattr(snapshots, "freeze", lambda volume, snapshot: snapshot.mkdir())
    monkeypatch.setattr(snapshots, "free_percent", lambda pool=None: 50 if made.count() < made.full else 5)
    return made


def declared(**keep_rules: int) -> Declared:
    return Declared(snapshots={"orders": {"schedule": "hourly", "keep": keep_rules}})


def test_the_timer_makes_what_is_due_and_never_touches_what_a_person_made(pool):
    snapshots.take("orders", START - timedelta(days=400), manual=True, pool=pool.path)
    for hour in range(5):
        told = snapshots.do_what_is_due(declared(last=2), START + timedelta(hours=hour), pool.path)
    assert told["made"] == ["orders/20260101T040000Z"] and told["dropped"] == ["orders/20260101T020000Z"]
    assert [one.name for one in snapshots.of("orders", pool.path)] == [
        "20241127T000000Z-manual", "20260101T030000Z", "20260101T040000Z"
    ]  # fmt: skip


def test_a_full_pool_loses_its_oldest_snapshots_first_and_says_so(pool):
    for hour in range(4):
        snapshots.do_what_is_due(declared(last=9), START + timedelta(hours=hour), pool.path)
    pool.full = 3
    told = snapshots.do_what_is_due(declared(last=9), START + timedelta(hours=4), pool.path)
    assert told["early"] == ["orders/20260101T000000Z", "orders/20260101T010000Z", "orders/20260101T020000Z"]
    assert told["refused"] == [] and [one.name for one in snapshots.of("orders", pool.path)] == [
        "20260101T030000Z", "20260101T040000Z"
    ]  # fmt: skip


def test_a_pool_that_is_full_of_other_things_gets_no_snapshot(pool):
    pool.full = 0
    assert snapshots.do_what_is_due(declared(last=9), START, pool.path)["refused"] == ["orders"]
    assert snapshots.of("orders", pool.path) == []


def test_what_is_not_there_is_named_with_what_is(pool):
    with pytest.raises(StorageError, match="no volume ordres; there are: orders"):
        snapshots.take("ordres", START, manual=True, pool=pool.path)
    with pytest.raises(StorageError, match="no snapshot at all"):
        snapshots.find("orders", "", pool.path)
