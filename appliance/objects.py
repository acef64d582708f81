"""What an inventory says of object storage, beyond what each variable's type and form say."""

from collections.abc import Callable, Iterator, Mapping

from appliance import manifests
from appliance.schema import UNKNOWN, Finding

DOCUMENTED = "roles/objects/defaults/main.yml"


def check_objects(value: Callable[[str], object]) -> Iterator[tuple[str, Finding]]:
    """The variable and what is wrong with it; `value` gives a variable's value, or its default, by name."""
    volume, users = value("objects_volume"), value("objects_users")
    if not volume:
        return
    volumes = value("storage_volumes")
    if volume is not UNKNOWN and isinstance(volumes, list) and UNKNOWN not in volumes:
        names = [one.get("name") for one in volumes if isinstance(one, Mapping)]
        if volume not in names:
            yield "objects_volume", Finding((), volume, "is no volume of storage_volumes", "the name of one of them")
    for path, claim in manifests.claims(value("pods")):
        if claim == volume:
            finding = Finding(path, claim, "is the volume of objects_volume", "another volume: this one is Swift's")
            yield "pods", finding
    names = [one.get("name") for one in users if isinstance(one, Mapping)] if isinstance(users, list) else []
    for number, name in enumerate(names):
        if name in names[:number]:
            yield "objects_users", Finding((number, "name"), name, "is used more than once", "each user once")
    if bool(value("objects_certificate")) != bool(value("objects_certificate_key")):
        missing = "objects_certificate_key" if value("objects_certificate") else "objects_certificate"
        yield missing, Finding((), None, "is missing", "a certificate and its key, or neither")
