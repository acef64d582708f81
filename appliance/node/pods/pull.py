"""Pulling an image, with what the pod's imagePullSecrets say about its registry."""

from typing import TYPE_CHECKING, Any

from . import objects
from .cri_model import CriError

if TYPE_CHECKING:
    from .cri import Cri

_HUB = "docker.io"
_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")


def pull(cri: "Cri", reference: str, secrets: list[dict[str, Any]], seconds: float) -> None:
    """Pull an image with each fitting credential in turn, without any where none fits.

    Raises CriError for the last attempt, ManifestError for a Secret that cannot be used.
    """
    attempts: list[dict[str, Any]] = [
        {"auth": auth}
        for secret in secrets
        for registry, auth in objects.pull_credentials(secret["name"]).items()
        if is_for(registry, reference)
    ]
    for number, auth in enumerate(attempts or [{}], 1):
        try:
            cri.call("PullImage", seconds, image={"image": reference}, **auth)
            return
        except CriError:
            if number >= len(attempts):
                raise


def is_for(registry: str, reference: str) -> bool:
    """Whether a registry, as `docker login` writes it (host, port, perhaps a path), is the one of an image."""
    host, _, path = registry.partition("://")[2].partition("/") if "://" in registry else registry.partition("/")
    first, slash, rest = reference.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, rest = _HUB, reference
    if host in _HUB_NAMES:
        return first in _HUB_NAMES  # its paths are those of its API
    path = path.strip("/")
    return host == first and (not path or rest == path or rest.startswith(f"{path}/"))
