"""What earlier runs tell of how long one still takes."""

import json

import pytest

from appliance.durations import Durations


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state/runs.json"


def run(path, marks, total, hosts=("a",), verb="deploy"):
    made = Durations(verb, list(hosts), path)
    for name, elapsed in marks:
        made.phase(name, elapsed)
    made.note(total)


def test_the_first_run_has_no_estimate_and_the_second_that_of_the_first(path):
    assert Durations("deploy", ["a"], path).phase("base", 1) is None
    run(path, [("base", 1), ("pods", 30)], 50)
    later = Durations("deploy", ["a"], path)
    assert later.left(0) == 50
    assert [later.phase("base", 1.2), later.phase("pods", 33)] == [49, 20]
    assert Durations("upgrade", ["a"], path).left(0) is None


def test_the_earlier_run_that_was_as_fast_so_far_counts(path):
    run(path, [("base", 1), ("pods", 30)], 50)
    run(path, [("base", 1), ("pods", 2)], 6)
    for elapsed, left in ((28, 20), (3, 4)):
        later = Durations("deploy", ["a"], path)
        later.phase("base", 1)
        assert later.phase("pods", elapsed) == left


def test_a_run_with_other_phases_and_other_hosts_do_not_count_and_the_slowest_host_does(path):
    run(path, [("base", 1)], 10, hosts=("a",))
    run(path, [("base", 1)], 30, hosts=("b",))
    assert Durations("deploy", ["a", "b", "c"], path).left(0) == 30
    assert Durations("deploy", ["c"], path).left(0) is None
    later = Durations("deploy", ["a"], path)
    assert later.phase("edge", 1) is None


def test_only_the_last_runs_are_kept_and_a_broken_file_is_none(path):
    for _ in range(20):
        run(path, [("base", 1)], 10)
    assert len(json.loads(path.read_text())["a"]["deploy"]) == 8
    path.write_text("{")
    assert Durations("deploy", ["a"], path).left(0) is None
    run(path, [("base", 1)], 10)
    assert Durations("deploy", ["a"], path).left(0) == 10


def test_where_nothing_can_be_written_there_is_no_estimate_and_no_error(tmp_path):
    (tmp_path / "file").touch()
    run(tmp_path / "file/runs.json", [("base", 1)], 10)
