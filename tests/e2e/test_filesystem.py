"""What programs expect of a file system, asked in pods of both handlers by tests/inside/filesystem.py.

What a microVM cannot do is listed here, each with its reason; docs/runtime.md has the list for people, with the cures.
"""

import pytest

from tests import images
from tests.conftest import inside

pytestmark = pytest.mark.lab

# A microVM's volumes are QEMU's 9p: what neither its protocol nor its server has.
VOLUME = {
    "fallocate": "ENOTSUP",  # no such message; posix_fallocate() of the C library then writes zeros
    "punch_hole": "ENOTSUP",
    "holes_are_found": "all data",  # SEEK_DATA: a copy of a sparse file is not sparse
    "rename_flags": "EINVAL",  # RENAME_NOREPLACE, RENAME_EXCHANGE
    "file_capabilities": "ENOTSUP",  # Debian's 9p has no security.* attributes
    "unlinked_file_is_truncated": "ENOENT",  # QEMU finds files by path
    "times": "whole seconds",  # as set by utime(); the client rounds
}
BOOKWORM = {
    "fifos": "ENXIO",  # QEMU 7.2 opens no special files, nor changes the mode of one that it made
    "unix_sockets": "ENXIO",
    "write_takes_set_user_id_away": "set-user-ID stays",  # Linux 6.1 leaves it to the server, which has CAP_FSETID
}
# Between two pods on one volume there are two kernels, each with locks, mappings and watches of its own.
OTHER_POD = {
    "flock": None,  # both get it
    "posix_lock": None,
    "mapping": "\0\0\0",  # a mapping sees another pod's writes only when mapped anew
    "inotify": False,
}

# Linux 6.12 keeps the contents of a file for as long as somebody in the guest has it open, or mapped.
OTHER_POD_TRIXIE = OTHER_POD | {
    "appended_while_open": ["2\0\0\0", 5],
    "synced_while_open": "22\0\0\0",
    "truncated": [1, "2"],
    "mapping_read": "\0\0\0",
}
# With the annotation io.casemate.microvm/volumes: coherent, nothing is cached, so nothing can be mapped for writing.
COHERENT = OTHER_POD | {"mapping": "!EINVAL", "mapping_read": "\0\0\0"}


@pytest.fixture(scope="module", params=["300", pytest.param("10000", marks=pytest.mark.full)], ids=["few", "many"])
def seen(deployed_host, request):
    images.load(deployed_host, "python")
    return inside(deployed_host, "filesystem", request.param, timeout=1500)


def differences(found: dict) -> dict:
    return {check: said for check, said in found.items() if said != "ok"}


@pytest.mark.parametrize("place", ["root", "volume"])
def test_runc_passes_every_check(seen, place):
    assert differences(seen["semantics"]["runc"][place]) == {}


def test_the_root_file_system_of_a_microvm_passes_every_check(seen):
    assert differences(seen["semantics"]["microvm"]["root"]) == {}


def test_a_volume_of_a_microvm_lacks_what_is_listed_and_nothing_else(seen, deployed_host):
    listed = VOLUME | (BOOKWORM if deployed_host.release == "bookworm" else {})
    assert differences(seen["semantics"]["microvm"]["volume"]) == listed


def test_containers_of_a_pod_see_a_volume_as_containers_under_runc_do(seen, deployed_host):
    lacks = {"unix_socket"} if deployed_host.release == "bookworm" else set()  # none can be made
    found, wanted = (seen["together"][handler]["sibling"] for handler in ("microvm", "runc"))
    assert {k: v for k, v in found.items() if k not in lacks} == {k: v for k, v in wanted.items() if k not in lacks}


def test_two_pods_see_each_others_files_at_once_but_not_their_locks(seen, deployed_host):
    found = dict(seen["together"]["microvm"]["other_pod"])
    assert str(found.pop("unix_socket")).startswith("!"), "a Unix socket belongs to one kernel"
    listed = OTHER_POD if deployed_host.release == "bookworm" else OTHER_POD_TRIXIE
    wanted = seen["together"]["runc"]["other_pod"] | listed
    assert found == {check: said for check, said in wanted.items() if check != "unix_socket"}


def test_a_pod_that_asks_for_coherent_volumes_sees_open_files_too_but_cannot_map_them_for_writing(seen):
    found = dict(seen["together"]["coherent"]["other_pod"])
    wanted = seen["together"]["runc"]["other_pod"] | COHERENT
    for answers in (found, wanted):
        answers.pop("unix_socket")
    assert found == wanted


@pytest.mark.parametrize("handler", ["runc", "microvm"])
def test_what_the_host_writes_to_a_volume_is_seen_at_once(seen, handler):
    found = seen["together"][handler]
    assert [found[what] for what in ("host_write", "host_rewrite", "host_unlink")] == ["one", "longer than one", False]


def test_a_full_volume_tells_the_program_and_recovers(seen):
    found = seen["limits"]
    assert (found["full"], found["free_after"], found["recovers"]) == ("!ENOSPC", True, "1")


def test_a_full_root_file_system_tells_the_program_and_recovers(seen):
    found = seen["limits"]
    assert (found["root_full"], found["root_recovers"]) == ("!ENOSPC", "1")


def test_a_pods_disk_holds_on_the_host_what_its_containers_wrote_until_they_delete_it(seen):
    before, filled, freed = seen["limits"]["disk_mib"]
    assert filled >= before + 64 and freed < before + 32


def test_nothing_changes_a_read_only_volume(seen):
    assert seen["limits"]["read_only"] == ["!EROFS"] * 5


def test_a_volume_may_be_a_file(seen):
    assert seen["limits"]["file"] == ["two", True] and seen["limits"]["file_on_host"] == "two"


def test_a_volume_whose_source_vanishes_fails_and_the_container_lives(seen):
    assert seen["limits"]["vanished"] == ["!ENOENT", "!ENOENT", 2]
    assert seen["limits"]["still_well"][:2] == [0, "well\n"]
