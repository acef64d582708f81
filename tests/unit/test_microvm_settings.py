"""The runtime's configuration, and the choice of a guest's size."""

import json

import pytest

from appliance.node.microvm.settings import MIB, RuntimeFailure, Settings, Size, load

SIZES = (Size("small", 256, 1), Size("medium", 512, 1), Size("large", 1024, 2))


@pytest.fixture(autouse=True)
def four_processors(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)


@pytest.mark.parametrize(
    ("memory_mib", "vcpus", "expected"),
    [
        (None, None, "small"),
        (160, None, "small"),
        (161, None, "medium"),  # 160 + 96 of the guest's own is all that fits 256
        (400, 1, "medium"),
        (None, 2, "large"),
        (100, 2, "large"),
    ],
)
def test_a_pod_gets_the_smallest_size_that_holds_its_limits(memory_mib, vcpus, expected):
    memory = None if memory_mib is None else memory_mib * MIB
    assert Settings(sizes=SIZES).size_for(memory, vcpus).name == expected


def test_a_pod_too_big_for_every_size_gets_one_of_its_own():
    assert Settings(sizes=SIZES).size_for(2000 * MIB, 3) == Size("custom", 2112, 3)


def test_a_pod_never_gets_more_processors_than_the_host_has():
    assert Settings(sizes=SIZES).size_for(None, 64).vcpus == 4


def test_a_missing_file_means_the_defaults(tmp_path):
    assert load(tmp_path / "none.json") == Settings()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "not JSON"),
        ('{"acelerator": "kvm"}', "acelerator"),
        ('{"accelerator": "xen"}', "xen"),
        ('{"sizes": []}', "sizes is empty"),
        ('{"sizes": [{"name": "s"}]}', "memory_mib"),
    ],
)
def test_a_wrong_file_is_refused_naming_file_and_key(tmp_path, content, named):
    file = tmp_path / "microvm.json"
    file.write_text(content)
    with pytest.raises(RuntimeFailure, match=named) as raised:
        load(file)
    assert str(file) in str(raised.value)


def test_sizes_of_the_file_are_used(tmp_path):
    file = tmp_path / "microvm.json"
    file.write_text(json.dumps({"sizes": [{"name": "only", "memory_mib": 320, "vcpus": 1, "template": True}]}))
    assert load(file).size_for(None, None) == Size("only", 320, 1, True)
