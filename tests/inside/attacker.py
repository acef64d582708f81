"""Runs on an appliance: programs in the places that an attacker may come to own, and what they could do there."""

import base64
import json
import os
import socket
import subprocess
import tempfile
from pathlib import Path

from appliance.node.microvm import protocol
from appliance.node.microvm.sandboxes import Sandbox

STATE = "/run/containerd/runc/k8s.io"
BUNDLES = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"


def in_guest(sandbox_id, program, **values):
    """Run a Python program as root of the guest's kernel, in none of its namespaces; return the JSON it prints.

    The agent is asked for a container of that kind, which no engine could have made. `values` are its variables.
    """
    sandbox, name = Sandbox(sandbox_id), f"attacker-{os.urandom(4).hex()}"
    source = f"import json\nglobals().update(json.loads({json.dumps(json.dumps(values))}))\n{program}"
    every = [f"CAP_{c}" for c in CAPABILITIES.split()]
    spec = {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/usr/bin/python3", "-ISBc", source], "cwd": "/", "env": ["PATH=/usr/bin:/usr/sbin:/bin:/sbin"],
            "user": {"uid": 0, "gid": 0}, "capabilities": {k: every for k in ("bounding", "effective", "permitted")},
        },
        "root": {"path": "/"}, "mounts": [],
        "linux": {
            "namespaces": [], "cgroupsPath": f"/{name}",
            "resources": {"devices": [{"allow": True, "access": "rwm"}]},
        },
    }  # fmt: skip
    (sandbox.share / name).mkdir()  # the agent makes each container a root file system from one of these
    try:
        creator, _ = sandbox.ask("create", id=name, spec=spec, processes_of=None)
        with creator:  # without it the container would go
            try:
                return json.loads(_attached(sandbox, name))
            finally:
                sandbox.call("delete", id=name)
    finally:
        (sandbox.share / name).rmdir()


CAPABILITIES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL MKNOD NET_ADMIN NET_RAW SETGID SETUID SETFCAP SYS_ADMIN
    SYS_BOOT SYS_CHROOT SYS_MODULE SYS_PTRACE SYS_RAWIO SYS_RESOURCE
"""


def _attached(sandbox, key):
    """Start a container of the guest and return what it prints."""
    printed, decoder = b"", protocol.Decoder(protocol.FROM_GUEST)
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(120)
        link.connect(str(sandbox.ctl / "sock"))
        link.sendall(protocol.call(0, "attach", key=key) + protocol.frame(protocol.STDIN, 0))
        while data := link.recv(65536):
            for kind, _, payload in decoder.feed(data):
                if kind in (protocol.STDOUT, protocol.STDERR):
                    printed += payload
                    link.sendall(protocol.credit(0, len(payload)))
                elif kind == protocol.REPLY:
                    assert protocol.reply_of(payload)["ok"], payload
                elif kind == protocol.EXIT:
                    assert protocol.exit_of(payload)["code"] == 0, printed
                    return printed
    raise AssertionError(f"the guest went away: {printed}")


def in_jail(container, program, without=None, **values):
    """Run a Python program beside QEMU (or a stand-in), as its user, with its capabilities, filter, limits and cgroup.

    `without` is a capability to leave out. Returns the JSON that it prints, or its exit status when it printed none.
    """
    process = json.loads(Path(BUNDLES, container, "config.json").read_text())["process"]
    process |= {"args": ["/usr/bin/python3", "-ISBc", _with(program, values)], "terminal": False}
    if without:
        process["capabilities"] = {k: [c for c in v if c != without] for k, v in process["capabilities"].items()}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(process, file)
        file.flush()
        done = subprocess.run(
            ["runc", "--root", STATE, "exec", "--process", file.name, container], capture_output=True, text=True
        )
    return _said(done)


def on_host(program, **values):
    """Run the same program as the host's root: what must succeed here, or the probe proves nothing."""
    return _said(
        subprocess.run(["/usr/bin/python3", "-ISBc", _with(program, values)], capture_output=True, text=True, cwd="/")
    )


def _with(program, values):
    encoded = base64.b64encode(json.dumps(values).encode()).decode()
    return f"import base64, json\nglobals().update(json.loads(base64.b64decode('{encoded}')))\n{program}"


def _said(done):
    try:
        return json.loads(done.stdout)
    except ValueError:
        return {"ended": done.returncode, "said": (done.stdout + done.stderr)[-500:]}
