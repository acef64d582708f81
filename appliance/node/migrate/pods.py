"""What a migration wants of this host's pods and of its engine."""

from __future__ import annotations

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from appliance.node.pods import settings, units

if TYPE_CHECKING:
    from appliance.node.pods.cri import Cri

_SYNC = ["/usr/lib/casemate/bin/casemate-pod", "sync", "--output=text"]
_SEEN_SECONDS = 10  # in which the engine sees an image that was put into its store
_AT_ONCE = 32


def held() -> AbstractContextManager:
    """Nobody else starts or removes pods meanwhile."""
    from appliance.node.pods import sync

    return sync.lock()


def stop(names: list[str]) -> None:
    """Stop pods together, each within its grace period; their sandboxes go as well."""
    from appliance.node.pods import teardown

    teardown.take_down(_cri(), names)


def start(names: list[str]) -> None:
    """Start the runners of pods; does not wait for them."""
    units.restart(names)


def remove(names: list[str]) -> None:
    """Stop pods and delete what is theirs, but for volumes of the pool; done within `held`."""
    from appliance.node.pods import sync

    values = settings.load()
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(lambda name: sync.remove(name, values), names))


def ready(names: list[str], seconds: float) -> str:
    """Bring pods to what is declared and wait for these; why one is not ready, "" where all are."""
    waiting = [f"--wait={seconds:g}", *(f"--for={name}" for name in names)]
    done = subprocess.run([*_SYNC, *waiting], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip()[-1000:] or "casemate-pod sync failed"


def handlers() -> list[str]:
    """The runtime handlers that the engine has."""
    config = json.loads(_cri().call("Status", verbose=True).info["config"])
    return sorted(config["containerd"]["runtimes"])


def image(reference: str) -> str:
    """The id, a digest of its content, of the image that a pod gets by this name; "" for none."""
    return _image(reference).id


def comes_to_be(reference: str, identity: str) -> bool:
    """Whether a reference names this very image, soon: the engine looks at its store from time to time."""
    end = time.monotonic() + _SEEN_SECONDS
    while image(reference) != identity:
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def stored(reference: str) -> str:
    """The full name under which the engine's store has an image that a pod names: with registry and tag."""
    found = _image(reference)
    names = [*found.repo_tags, *found.repo_digests]
    return next((name for name in names if name.endswith((reference, f"{reference}:latest"))), reference)


def _image(reference: str):
    return _cri().call("ImageStatus", image={"image": reference}).image


def _cri() -> Cri:
    from appliance.node.pods.cri import Cri

    return Cri(settings.load().socket)
