"""What the engine's answers mean; free of gRPC, so that all that only judges them is too."""

DEFAULT_SOCKET = "/run/containerd/containerd.sock"
_SANDBOX_READY = 0
_CONTAINER_STATES = ("created", "running", "exited", "unknown")


class CriError(Exception):
    """The engine refused a call or could not be reached.

    `method` is the CRI method, `code` the gRPC status name (for example UNAVAILABLE, NOT_FOUND), `details` the
    engine's own words.
    """

    def __init__(self, method: str, code: str, details: str, socket: str):
        self.method, self.code, self.details = method, code, details
        cure = ""
        if code == "UNAVAILABLE":
            cure = f"; is the engine running on {socket}? try: systemctl status containerd"
        super().__init__(f"{method}: {details} ({code}){cure}")


def state_name(container) -> str:
    """`created`, `running`, `exited` or `unknown`, from a Container or ContainerStatus."""
    return _CONTAINER_STATES[container.state]


def sandbox_ready(sandbox) -> bool:
    """Whether a PodSandbox or PodSandboxStatus is up."""
    return sandbox.state == _SANDBOX_READY
