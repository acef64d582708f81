"""Telling hosts that are being changed that their run is there: without it they roll back (node/release/guard.py)."""

import contextlib
import subprocess
import threading
from collections.abc import Iterable

from appliance import reach
from appliance.errors import CasemateError
from appliance.inventory import Host
from appliance.node.release.guard import HOLD, RENEW_SECONDS


class Leases:
    """A context in which each of the hosts hears of `run` every few seconds, through a connection of its own."""

    def __init__(self, hosts: Iterable[Host], run: str):
        self._hosts, self._run = list(hosts), run
        self._holders: dict[str, subprocess.Popen] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Leases":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for holder in self._holders.values():
            with contextlib.suppress(OSError):
                holder.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                holder.wait(RENEW_SECONDS)
            holder.kill()
            holder.wait()

    def _renew(self) -> None:
        while True:
            for host in self._hosts:
                with contextlib.suppress(OSError, CasemateError):  # it is tried again, and its guard has patience
                    self._tell(host)
            if self._over.wait(RENEW_SECONDS):
                return

    def _tell(self, host: Host) -> None:
        holder = self._holders.get(host.name)
        if holder is None or holder.poll() is not None:
            holder = subprocess.Popen(
                reach.argv(host, ["bash", "-c", HOLD, self._run]), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            self._holders[host.name] = holder
        holder.stdin.write(b"\n")
        holder.stdin.flush()
