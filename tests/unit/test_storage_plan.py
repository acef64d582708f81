"""What is done to a pool so that it is on the devices that are declared."""

from appliance.node.health import pool

GIB = 1 << 30
RAID1 = {"data": ["raid1"], "metadata": ["raid1"], "system": ["raid1"]}
SINGLE = {"data": ["single"], "metadata": ["dup"], "system": ["dup"]}
LITTLE = {"data": GIB, "metadata": 10 << 20, "system": 1 << 20}


def member(number: int, name: str = "", size: int = 10 * GIB) -> dict:
    return {"id": number, "name": name, "missing": not name, "size": size if name else 0}


def device(name: str, number: int = 0, size: int = 10 * GIB, *, there: bool = True) -> dict:
    return {"name": name, "member": number, "there": there, "size": size}


def plan(wanted: list, members: list, profiles: dict = RAID1) -> list[str]:
    return [str(step) for step in pool.plan(wanted, members, profiles)]


def test_a_pool_on_its_devices_is_left_alone():
    assert plan([device("a", 1)], [member(1, "a")], SINGLE) == []
    assert plan([device("a", 1), device("b", 2)], [member(1, "a"), member(2, "b")]) == []


def test_a_second_device_is_added_and_everything_put_on_both():
    assert plan([device("a", 1), device("b")], [member(1, "a")], SINGLE) == [
        "add b to the pool", "spread what is in the pool anew (data raid1, metadata raid1)"
    ]  # fmt: skip


def test_a_balance_that_was_cut_off_goes_on():
    half = RAID1 | {"data": ["raid1", "single"]}
    assert len(plan([device("a", 1), device("b", 2)], [member(1, "a"), member(2, "b")], half)) == 1


def test_a_device_that_became_larger_is_used_whole_and_rounding_is_no_growth():
    assert plan([device("a", 1, 12 * GIB)], [member(1, "a")], SINGLE) == ["use all of a"]
    assert plan([device("a", 1, 10 * GIB + 4095)], [member(1, "a")], SINGLE) == []


def test_a_new_device_takes_the_place_of_one_that_is_gone():
    assert plan([device("a", 1), device("c")], [member(1, "a"), member(2)]) == ["replace device 2 of the pool by c"]


def test_a_new_device_takes_the_place_of_one_that_leaves_if_it_is_as_large():
    members = [member(1, "a"), member(2, "b")]
    assert plan([device("a", 1), device("c")], members) == ["replace device 2 of the pool by c"]
    assert plan([device("a", 1), device("c", size=5 * GIB)], members) == ["add c to the pool", "remove b from the pool"]


def test_a_declared_device_that_is_away_is_waited_for():
    assert plan([device("a", 1), device("b", there=False)], [member(1, "a"), member(2)]) == []


def test_a_gone_device_that_is_declared_no_more_is_struck_off():
    assert plan([device("a", 1)], [member(1, "a"), member(2)]) == [
        "spread what is in the pool anew (data single, metadata dup)", "remove missing from the pool"
    ]  # fmt: skip


def test_what_does_not_fit_on_the_rest_is_refused_with_figures():
    wanted = [device("a", 1, 2 * GIB)]
    steps = pool.plan(wanted, [member(1, "a", 2 * GIB), member(2, "b")], RAID1)
    assert pool.lacks(steps, wanted, LITTLE) == ""
    assert "needs 3606 MiB with a reserve, the devices that are left hold 2048 MiB" in pool.lacks(
        steps, wanted, LITTLE | {"data": 3 * GIB}
    )


def test_capacity_of_two_copies_is_bound_by_the_largest_device():
    assert [pool.capacity([n * GIB for n in sizes]) // GIB for sizes in ([4], [4, 4], [8, 3], [4, 4, 4])] == [
        4,
        4,
        3,
        6,
    ]
