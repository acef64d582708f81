"""Finding the one host that has a pod."""

from appliance.errors import CasemateError, UnreachableError, UsageError
from appliance.inventory import Host, Inventory
from appliance.reach import POD_PROGRAM, Answer, ask


def host_of(pod: str, inventory: Inventory) -> Host:
    """The host that has `pod` (NAME or NAMESPACE/NAME).

    Raises UsageError when several have, or none; UnreachableError when one that does not answer may have it.
    """
    answers = ask(inventory.hosts, POD_PROGRAM, "list", "--output=json")
    found = [answer.host for answer in answers if named(answer, pod)]
    if len(found) > 1:
        names = ", ".join(host.name for host in found)
        raise UsageError(f"pod {pod!r} is on several hosts: {names}", cure=f"--limit {found[0].name}")
    if not found:
        raise nowhere(answers, pod)
    return found[0]


def named(answer: Answer, pod: str) -> list[dict]:
    """The pods of a host's answer that have this name."""
    namespace, _, name = pod.rpartition("/")
    return [one for one in answer.value or [] if one["name"] == name and namespace in ("", one["namespace"])]


def nowhere(answers: list[Answer], pod: str) -> CasemateError:
    """The error for a pod that no host has: what there is, or which host may have it and did not tell."""
    silent = [answer for answer in answers if answer.error]
    if silent:
        kind = UnreachableError if any(answer.unreachable for answer in silent) else CasemateError
        texts = "; ".join(f"{answer.host.name}: {answer.error}" for answer in silent)
        return kind(f"pod {pod!r} was not found, and not every host could be asked: {texts}")
    there = "; ".join(
        f"{answer.host.name}: {', '.join(one['name'] for one in answer.value) or 'none'}" for answer in answers
    )
    return UsageError(f"there is no pod {pod!r}", cure=f"there are, by host: {there}")
