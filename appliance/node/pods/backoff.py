"""How long a container that ended waits for its next start, as Kubernetes documents it.

At once the first time, then 10 s, 20 s, 40 s and so on up to five minutes; one that ran for ten minutes starts afresh.
The count travels with the container, as an annotation, so it outlives the runner.
"""

ANNOTATION = "io.casemate.restarts-in-a-row"
_FIRST_SECONDS, _LAST_SECONDS, _FORGET_SECONDS = 10, 300, 600
_DOUBLINGS = 5  # the next would be beyond the last


def in_a_row(status) -> int:
    """How many restarts in a row led to a container that has ended (CRI's ContainerStatus)."""
    if status.started_at and status.finished_at - status.started_at >= _FORGET_SECONDS * 10**9:
        return 0
    return int(status.annotations.get(ANNOTATION) or 0)


def delay(restarts_in_a_row: int) -> int:
    """Seconds from the end of a container to its next start."""
    if restarts_in_a_row == 0:
        return 0
    return min(_FIRST_SECONDS << min(restarts_in_a_row - 1, _DOUBLINGS), _LAST_SECONDS)
