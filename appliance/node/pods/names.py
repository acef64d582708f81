"""Which pod is meant by NAME or NAMESPACE/NAME."""

import os
from collections.abc import Collection


class NoSuchPod(Exception):
    """There is no such pod, or no such container in it; the text says what there is."""


def meant(pod: str, there: Collection[tuple[str, str]], what: str) -> tuple[str, str]:
    """The one pod of `there` (namespaces and names) that `pod` names; `what` is said of all of them, as "runs".

    Raises NoSuchPod when it names none or several.
    """
    namespace, _, name = pod.rpartition("/")
    found = sorted({pair for pair in there if pair[1] == name and namespace in ("", pair[0])})
    if len(found) > 1:
        raise NoSuchPod(f"there are several pods {name!r}: {', '.join(map('/'.join, found))}; say which")
    if not found:
        names = ", ".join(sorted({name for _, name in there})) or "none"
        raise NoSuchPod(f"no pod {pod!r} {what} on {os.uname().nodename}; these do: {names}")
    return found[0]
