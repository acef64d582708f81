"""EdgeCore's pods as the engine has them: they outlive EdgeCore, so whoever removes it removes them."""

from appliance.node.pods import settings, teardown
from appliance.node.pods.cri import Cri
from appliance.node.pods.translate import UID_LABEL, managed_labels

# how kubelet code marks a pod that came from a file
_SOURCE, _FILE = "kubernetes.io/config.source", "file"


def sandboxes(cri: Cri, *, static_only: bool = False) -> list:
    """The sandboxes that EdgeCore made: those with a kubelet's labels and without the pod runner's."""
    ours = managed_labels().items()
    return [
        sandbox
        for sandbox in cri.sandboxes()
        if UID_LABEL in sandbox.labels
        and not ours <= dict(sandbox.labels).items()
        and (not static_only or sandbox.annotations.get(_SOURCE) == _FILE)
    ]


def remove(*, static_only: bool) -> None:
    """Stop EdgeCore's pods within their grace periods and remove them, with their logs. Raises CriError."""
    cri = Cri(settings.load().socket)
    for sandbox in sandboxes(cri, static_only=static_only):
        teardown.remove_sandbox(cri, sandbox, with_logs=True)
