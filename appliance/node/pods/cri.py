"""A client for the Kubernetes Container Runtime Interface v1, over the engine's Unix socket."""

import grpc

from . import cri_pb2 as pb
from .cri_model import DEFAULT_SOCKET, CriError

_IMAGE_METHODS = {"ImageStatus", "PullImage"}


class Cri:
    """One connection to the engine; calls are thread-safe and reconnect by themselves."""

    def __init__(self, socket: str = DEFAULT_SOCKET):
        self.socket = socket
        # Without the cap the back-off grows to two minutes, and a restarted engine would be noticed that late.
        options = [("grpc.max_reconnect_backoff_ms", 2000), ("grpc.max_receive_message_length", 32 << 20)]
        self._channel = grpc.insecure_channel(f"unix://{socket}", options)

    def call(self, method: str, deadline: float = 30, /, **fields):
        """Call one CRI method and return its response message.

        `fields` are the request's fields as plain values, dicts and lists; `deadline` is in seconds. Raises CriError.
        """
        service = "ImageService" if method in _IMAGE_METHODS else "RuntimeService"
        request = getattr(pb, f"{method}Request")(**fields)
        stub = self._channel.unary_unary(
            f"/runtime.v1.{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(pb, f"{method}Response").FromString,
        )
        try:
            return stub(request, timeout=deadline)
        except grpc.RpcError as error:
            raise CriError(method, error.code().name, error.details(), self.socket) from None

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

    def close(self) -> None:
        self._channel.close()
