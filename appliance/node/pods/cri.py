"""A client for the Kubernetes Container Runtime Interface v1, over the engine's Unix socket."""

from . import cri_pb2 as pb
from . import unary
from .cri_model import DEFAULT_SOCKET, CriError

_IMAGE_METHODS = {"ImageStatus", "PullImage"}


class Cri:
    """The engine behind a socket; calls are thread-safe, and each makes a connection of its own."""

    def __init__(self, socket: str = DEFAULT_SOCKET):
        self.socket = socket

    def call(self, method: str, deadline: float = 30, /, **fields):
        """Call one CRI method and return its response message.

        `fields` are the request's fields as plain values, dicts and lists; `deadline` is in seconds. Raises CriError.
        """
        service = "ImageService" if method in _IMAGE_METHODS else "RuntimeService"
        request = getattr(pb, f"{method}Request")(**fields).SerializeToString()
        try:
            reply = unary.call(self.socket, f"/runtime.v1.{service}/{method}", request, deadline)
        except unary.GrpcError as error:
            raise CriError(method, error.code, error.details, self.socket) from None
        return getattr(pb, f"{method}Response").FromString(reply)

    def sandboxes(self, labels: dict[str, str] | None = None) -> list:
        """All pod sandboxes carrying `labels`, newest first."""
        items = self.call("ListPodSandbox", filter={"label_selector": labels or {}}).items
        return sorted(items, key=lambda item: item.created_at, reverse=True)

    def containers(self, sandbox_id: str = "") -> list:
        """All containers, or those of one sandbox, newest first."""
        items = self.call("ListContainers", filter={"pod_sandbox_id": sandbox_id}).containers
        return sorted(items, key=lambda item: item.created_at, reverse=True)

    def address(self, sandbox_id: str) -> str:
        """The sandbox's first IP address, or an empty string."""
        return self.call("PodSandboxStatus", pod_sandbox_id=sandbox_id).status.network.ip
