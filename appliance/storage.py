"""What an inventory says of the pool's devices, beyond what each variable's type and form say."""

from collections.abc import Callable, Iterator

from appliance.schema import Finding

DOCUMENTED = "roles/storage/defaults/main.yml"


def check_devices(value: Callable[[str], object]) -> Iterator[tuple[str, Finding]]:
    """The variable and what is wrong with it; `value` gives a variable's value, or its default, by name."""
    devices = value("storage_devices")
    if not devices or not isinstance(devices, list):
        return
    if value("storage_device"):
        yield "storage_devices", Finding((), devices, "is given beside storage_device", "one of the two")
    for number, device in enumerate(devices):
        if device in devices[:number]:
            yield "storage_devices", Finding((number,), device, "is named more than once", "each device once")
