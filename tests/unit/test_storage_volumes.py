"""Volumes that pods may claim, on a pool that is a plain directory; molecule has them on btrfs."""

import pytest

from appliance.node.health import btrfs
from appliance.node.storage import cli


def test_a_missing_volume_is_made_once_and_only_told_of_under_check(tmp_path):
    wanted = [{"name": "a"}, {"name": "b", "size": ""}]
    assert cli.ensure(wanted, check=True, pool=tmp_path)["new"] == ["a", "b"]
    assert not (tmp_path / "volumes").exists()
    assert cli.ensure(wanted, pool=tmp_path)["new"] == ["a", "b"]
    (tmp_path / "volumes/a/kept").touch()
    assert cli.ensure(wanted[1:], pool=tmp_path) == {"new": [], "sized": []}
    assert (tmp_path / "volumes/a/kept").exists()


def test_a_size_that_nobody_would_keep_to_is_refused(tmp_path):
    with pytest.raises(cli.VolumeError, match="storage_device"):
        cli.ensure([{"name": "a", "size": "1G"}], pool=tmp_path)


@pytest.mark.parametrize(("size", "count"), [("", 0), ("512M", 512 << 20), ("10G", 10 << 30), ("3T", 3 << 40)])
def test_sizes_are_powers_of_1024(size, count):
    assert btrfs.in_bytes(size) == count
