"""The systemd units behind pods: one `casemate-pod@NAME.service` a pod."""

import subprocess
from collections.abc import Iterable

_PREFIX, _SUFFIX = "casemate-pod@", ".service"


class UnitError(Exception):
    """systemctl failed; the message is its own."""


def unit(pod_name: str) -> str:
    return f"{_PREFIX}{pod_name}{_SUFFIX}"


def states() -> dict[str, str]:
    """ActiveState (active, activating, failed, inactive ...) of every pod unit that systemd knows, by pod name."""
    listed = _systemctl("list-units", "--all", "--plain", "--no-legend", f"{_PREFIX}*{_SUFFIX}")
    rows = [line.split() for line in listed.splitlines()]
    return {row[0].removeprefix(_PREFIX).removesuffix(_SUFFIX): row[2] for row in rows if len(row) > 2}


def restart(pod_names: Iterable[str]) -> None:
    """Start or restart the pods' runners, without waiting for the pods to be ready."""
    names = [unit(name) for name in pod_names]
    if names:
        _systemctl("restart", "--no-block", *names)


def stop(pod_name: str) -> None:
    """Stop a pod's runner and forget its failure, if any; the pod itself goes on."""
    _systemctl("stop", unit(pod_name))
    # The unit may be unknown by now, which is what is wanted.
    subprocess.run(["systemctl", "reset-failed", unit(pod_name)], capture_output=True, check=False)


def host_is_stopping() -> bool:
    """Whether the whole host is going down."""
    asked = subprocess.run(["systemctl", "is-system-running"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() == "stopping"


def _systemctl(*arguments: str) -> str:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnitError(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
