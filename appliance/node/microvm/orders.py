"""What a new sandbox gets: its size, its accelerator, its template, and the orders that its supervisor reads."""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path
from typing import NamedTuple

from . import accelerator, image, qemu, settings, template
from . import jail as jails
from . import spec as specs
from .sandboxes import Sandbox
from .settings import RuntimeFailure


class Plan(NamedTuple):
    """The decisions for one sandbox."""

    settings: settings.Settings
    image: image.Image
    size: settings.Size
    machine: qemu.Machine
    template: template.Template | None
    template_wanted: bool
    coherent_volumes: bool
    notes: tuple[str, ...]

    @property
    def made_of(self) -> str:
        """See image.mark."""
        return image.mark(self.image)

    def orders(self, config: dict, interface: dict) -> dict:
        """Return what the supervisor needs to know, as JSON."""
        found = None
        if self.template:
            memory = {"memory_file": f"{jails.TEMPLATE}/memory", "memory_read_only": self.template.read_only}
            found = {"memory": memory, "devices": f"{jails.TEMPLATE}/devices"}
        return {
            "machine": self.machine._asdict(),
            "template": found,
            "template_wanted": self.template_wanted,
            "size": self.size.name,
            "start_deadline_s": self.settings.start_deadline_s,
            # A restored guest that is slow to answer is on a busy host, where a cold boot would be slower still.
            "restore_deadline_s": self.settings.start_deadline_s / 2,
            "notes": self.notes,
            "configure": {
                "hostname": config.get("hostname") or "localhost",
                "machine_id": uuid.uuid4().hex,
                "interface": interface,
                "sysctl": config["linux"].get("sysctl") or {},
                # Nobody changes the files of a running container's image; its volumes, they may. From Linux 6.4 on,
                # files of a share that lets programs map them for writing are cached while they are open.
                "shares": {"share": "loose", "volumes": "none" if self.coherent_volumes else "mmap"},
            },
        }

    def jail(self, config: dict, sandbox: Sandbox, argv: list[str]) -> dict:
        """Return the sandbox's spec as a jail."""
        return jails.jail(
            config,
            root=str(sandbox.root),
            state=str(sandbox.directory),
            disk=str(sandbox.disk),
            guest=str(self.image.directory),
            template=str(self.template.directory) if self.template else None,
            template_writable=bool(self.template) and not self.template.read_only,
            uid=sandbox.uid,
            devices=self._devices(sandbox.uid),
            argv=argv,
            machine=self.machine,
        )

    def _devices(self, uid: int) -> list[dict]:
        paths = ["/dev/net/tun"] + (["/dev/kvm"] if self.machine.accelerator == "kvm" else [])
        devices = []
        for path in paths:
            try:
                found = Path(path).stat()
            except FileNotFoundError:
                raise RuntimeFailure(f"{path} is missing on this host; load its kernel module") from None
            if not stat.S_ISCHR(found.st_mode):
                raise RuntimeFailure(f"{path} is no device on this host")
            devices.append({
                "path": path, "type": "c", "major": os.major(found.st_rdev), "minor": os.minor(found.st_rdev),
                "fileMode": 0o600, "uid": uid, "gid": uid,
            })  # fmt: skip
        return devices


def plan(config: dict) -> Plan:
    """Decide what the sandbox that `config` (its OCI spec) describes gets.

    Raises RuntimeFailure when this host has no guest image yet.
    """
    configured = settings.load()
    guest_image = image.current()
    if guest_image is None:
        raise RuntimeFailure(f"there is no guest image below {image.IMAGES}; `casemate-microvm prepare` makes it")
    annotations = config.get("annotations") or {}
    wanted, wishes = specs.resources(annotations), specs.wishes(annotations)
    size = configured.size_for(wanted.memory, wanted.vcpus)
    chosen = accelerator.known(configured, guest_image) or accelerator.remembered()
    found, notes = None, []
    template_wanted = size in configured.templates() and specs.BOOT not in wishes
    if template_wanted:
        found, why_not = template.find(guest_image, size, chosen, qemu.identity())
        notes = [] if found else [f"no good template of size {size.name}, so the guest booted cold: {why_not}"]
    in_jail = guest_image._replace(directory=Path(jails.GUEST))
    machine = template.machine(in_jail, size, chosen)._replace(disk=jails.DISK)
    return Plan(configured, guest_image, size, machine, found, template_wanted, specs.VOLUMES in wishes, tuple(notes))
