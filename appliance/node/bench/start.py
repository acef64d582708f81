"""How long a pod takes from RunPodSandbox to its program's first output, in phases."""

from __future__ import annotations

from .pods import Node, say


def run(node: Node, handler: str, cold: bool, runs: int) -> dict:
    """Return {"runs": [{"sandbox", "create", "start", "output", "total", "remove"}]}, all in seconds."""
    results = []
    # The first pod warms the host's caches and is not counted; for a cold boot they matter little.
    for number in range(1 if cold else 0, runs + 1):
        pod = node.pod(handler, cold)
        pod.start("/bin/sh", "-c", "echo ready; exec sleep 600")
        pod.output()
        total = sum(pod.phases.values())
        pod.remove()
        if number:
            results.append({name: round(seconds, 4) for name, seconds in {**pod.phases, "total": total}.items()})
            say(f"{handler}{', cold' if cold else ''}: {total:.2f} s ({number} of {runs})")
    return {"runs": results}
