"""Runs on an appliance: the manifests of tests/manifests, run and refused; prints JSON.

`manifests.py good HANDLER | changed | refused | pulled`; /tmp/casemate-test/manifests.json holds their files, by path
and in base64, and is left to whoever put it there.
"""

import base64
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import ClassVar

import yaml
from cri_pods import cri

from appliance.node.images import oci, recipes

WORK = Path("/tmp/casemate-test")
CONFIG = Path("/etc/casemate")
PODS, STATES = CONFIG / "pods", Path("/run/casemate/pods")
POOL = Path("/var/lib/casemate/pool/volumes/conformance")
POD = "/usr/lib/casemate/bin/casemate-pod"
SECRETS = [f"{word}-conformance" for word in ("s3cr3t", "t0k3n")]  # in no file that is looked at
FILES = {name: base64.b64decode(data) for name, data in json.loads((WORK / "manifests.json").read_text()).items()}
AT_ONCE = {"runc": 13, "microvm": 8}  # pods; an emulated guest keeps a processor busy while it starts
DEADLINE_SECONDS = int(os.environ.get("DEADLINE", "300"))


def below(folder):
    return {name.partition("/")[2]: data for name, data in FILES.items() if name.startswith(f"{folder}/")}


def put_objects():
    for data in below("objects").values():
        document = yaml.safe_load(data)
        path = CONFIG / f"{document['kind'].lower()}s" / f"{document['metadata']['name']}.yaml"
        path.touch(0o600)
        path.write_bytes(data)
    POOL.mkdir(exist_ok=True)
    (POOL / "from-the-host").write_text("kept\n")
    (POOL / "from-the-host").chmod(0o600)


def clear():
    """Remove all that was put, and wait until the pods have gone."""
    clear_pods()
    for kind in ("configmaps", "secrets"):
        for path in (CONFIG / kind).iterdir():
            path.unlink()
    shutil.rmtree(POOL, ignore_errors=True)


def clear_pods():
    for path in PODS.iterdir():
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        elif not path.is_file() or not path.read_bytes().startswith(b"# Written by Casemate"):
            path.unlink()
    subprocess.run([POD, "sync"], check=True, capture_output=True)


def with_handler(text, handler):
    """A manifest's text with its runtime named; the rest of the text is as it was written."""
    text = text.replace("HANDLER", handler)
    if '"spec": {' in text:
        return text.replace('"spec": {', f'"spec": {{"runtimeClassName": "{handler}",', 1)
    return re.sub(r"^spec:\n", f"spec:\n  runtimeClassName: {handler}\n", text, count=1, flags=re.MULTILINE)


def state(name):
    try:
        return json.loads((STATES / f"{name}.json").read_text())
    except (OSError, ValueError):
        return {}


def meets(known, expected):
    if expected == "ready":
        return known.get("ready", False)
    wanted, _, reason = expected.partition(": ")
    return known.get("state") == wanted and reason in known.get("reason", "")


def logs(name):
    files = sorted(Path("/var/log/pods").glob(f"*_{name}_*/*/*.log"))
    return {str(file): file.read_text(errors="replace")[-600:] for file in files}


def unmet(pods):
    """Wait for each pod to become what its manifest says; those that do not, with what is known of them."""
    end = time.monotonic() + DEADLINE_SECONDS
    missing = dict(pods)
    while missing and time.monotonic() < end:
        time.sleep(0.3)
        missing = {name: notes for name, notes in missing.items() if not meets(state(name), notes["test/expect"])}
    return {name: [notes["test/expect"], state(name), logs(name)] for name, notes in missing.items()}


def good(handler):
    """Run every good manifest; what does not become as promised, and what is left behind afterwards."""
    put_objects()
    found = {"ran": [], "unmet": {}, "problems": [], "secrets_seen": set(), "closed": set()}
    texts = [(name, with_handler(data.decode(), handler)) for name, data in below("good").items()]
    documents = [(name, text, yaml.safe_load(text)["metadata"]) for name, text in texts]
    fitting = [entry for entry in documents if handler in entry[2]["annotations"].get("test/handlers", handler)]
    for first in range(0, len(fitting), AT_ONCE[handler]):
        run_together(fitting[first : first + AT_ONCE[handler]], found)
    clear()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in found.items()}


def run_together(fitting, found):
    pods = {}
    for name, text, metadata in fitting:
        pods[metadata["name"]] = metadata["annotations"]
        (PODS / name).touch(0o600)  # it names the secrets that it compares
        (PODS / name).write_text(text)
    found["ran"] += pods
    found["unmet"] |= unmet(pods)
    for name, notes in pods.items():
        restarts = sum(state(name).get("restarts", {}).values())
        if "test/restarts" in notes and restarts != int(notes["test/restarts"]):
            found["problems"].append(f"{name}: {restarts} restarts")
        if port := notes.get("test/answers"):
            page = subprocess.run(["busybox", "wget", "-qO-", f"http://127.0.0.1:{port}/"], capture_output=True).stdout
            found["problems"] += [f"{name}: {page!r}"] if page != b"page\n" else []
    found["secrets_seen"] |= set(secrets_seen())
    found["closed"] |= {oct(path.stat().st_mode & 0o777) for path in Path("/run/casemate/volumes").iterdir()}
    clear_pods()
    for name, notes in pods.items():
        if "test/left" in notes:
            path, _, words = notes["test/left"].partition(": ")
            left = Path(path).read_text().split() if Path(path).exists() else None
            found["problems"] += [f"{name}: {path}: {left}"] if left != words.split() else []
    found["problems"] += left_behind(pods)


def secrets_seen():
    """Where the Secrets' values are that they must not be: logs, command lines, what others may read, our disk."""
    seen = []
    pattern = [word for secret in SECRETS for word in ("-e", secret)]
    journal = subprocess.run(["journalctl", "-b", "--no-pager", "-o", "cat"], capture_output=True, text=True).stdout
    seen += [f"journal: {secret}" for secret in SECRETS if secret in journal]
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = line.read_bytes().decode(errors="replace")
        except OSError:
            continue
        seen += [f"{line}" for secret in SECRETS if secret in command and "grep" not in command]
    private = ["--exclude-dir=casemate-test"]
    as_root = ["grep", "-rlsIF", *pattern, *private, "/var/log", "/var/lib/casemate", "/run/casemate/pods"]
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    as_nobody += ["grep", "-rlsIF", *pattern, *private, "/etc", "/run", "/var", "/tmp"]
    for command in (as_root, as_nobody):
        seen += subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return seen


def left_behind(names):
    """Traces of pods that have gone."""
    places = [STATES, Path("/run/casemate/volumes"), Path("/var/lib/casemate/pods"), Path("/var/log/pods")]
    traces = [str(path) for place in places if place.is_dir() for path in place.iterdir()
              if any(re.search(rf"(^|_){name}(_|\.|$)", path.name) for name in names)]  # fmt: skip
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    traces += [line.split()[1] for line in mounts if "/run/casemate/volumes" in line or "casemate-volume" in line]
    return traces + [s.metadata.name for s in cri.sandboxes() if s.metadata.name in names]


def pod(name, **spec):
    container = {"name": "main", "image": "localhost/casemate-test/busybox:1", "command": ["sleep", "100000"]}
    container |= spec.pop("container", {})
    spec = {"runtimeClassName": "runc", "terminationGracePeriodSeconds": 0, "containers": [container], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def put(document):
    path = PODS / f"{document['metadata']['name']}.json"
    path.write_text(json.dumps(document))
    return path


def wait_for(condition, what):
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.1)


def processes(name):
    """Start time by PID of a pod's containers."""
    sandbox = state(name)["sandbox_id"]
    told = [cri.call("ContainerStatus", container_id=c.id, verbose=True) for c in cri.containers(sandbox)]
    pids = [json.loads(answer.info["info"])["pid"] for answer in told]
    return {pid: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19] for pid in pids}


def changed():
    """Change a ConfigMap, then a Secret: the pods that name it are replaced, by volume and by variable, no other is."""
    put_objects()
    volume = {"name": "v", "configMap": {"name": "conformance"}}
    mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    secret = {"name": "P", "valueFrom": {"secretKeyRef": {"name": "conformance", "key": "token"}}}
    put(pod("by-volume", volumes=[volume, {"name": "e", "emptyDir": {}}], container=mount))
    put(pod("by-variable", container={"env": [secret]}))
    put(pod("bystander"))
    names = ("by-volume", "by-variable", "bystander")
    wait_for(lambda: all(state(name).get("ready") for name in names), "three pods")
    first = {name: processes(name) for name in names}
    kept = Path("/var/lib/casemate/pods/by-volume/volumes/e/x")
    kept.touch()

    def replaced():
        wait_for(lambda: all(state(name).get("ready") for name in names), "three pods anew")
        return sorted(name for name in names if processes(name) != first[name])

    def rewrite(folder, old, new):
        path = CONFIG / folder / "conformance.yaml"
        path.write_text(path.read_text().replace(old, new))

    def is_anew(name):
        return state(name).get("ready") and processes(name) != first[name]

    rewrite("configmaps", "plain: value", "plain: changed")
    wait_for(lambda: is_anew("by-volume"), "a changed ConfigMap")
    found = {"config_map": replaced(), "content": Path("/run/casemate/volumes/by-volume/v/plain").read_text(),
             "empty_again": not kept.exists()}  # fmt: skip
    rewrite("secrets", SECRETS[1], "t0k3n-changed")
    wait_for(lambda: is_anew("by-variable"), "a changed Secret")
    found["secret"] = replaced()
    (CONFIG / "secrets" / "conformance.yaml").chmod(0o644)
    (CONFIG / "secrets").chmod(0o755)
    put(pod("open", container={"env": [secret]}))
    wait_for(lambda: "chmod 600" in state("open").get("reason", ""), "the refusal of an open Secret")
    (CONFIG / "secrets").chmod(0o700)
    clear()
    found["left"] = left_behind([*names, "open"])
    return found


def odd_files():
    """Files that cannot be kept among the others: by path, how each is made."""
    return {
        "huge.yaml": lambda path: path.write_text("a: " + "x" * (2 << 20)),
        "deep.yaml": lambda path: path.write_text("[" * 5000 + "]" * 5000),
        "deep.json": lambda path: path.write_text("[" * 100000 + "]" * 100000),
        "wide.yaml": lambda path: path.write_text("[" + "a," * 100000 + "]"),
        "binary.yaml": lambda path: path.write_bytes(bytes(range(256))),
        "latin.yaml": lambda path: path.write_bytes("kind: Größe".encode("latin-1")),
        "utf16.yaml": lambda path: path.write_bytes("kind: Pod".encode("utf-16")),
        "digits.yaml": lambda path: path.write_text("a: " + "9" * 5000),
        "loop.yaml": lambda path: path.symlink_to(path.name),
        "dangling.yaml": lambda path: path.symlink_to("/nowhere"),
        "folder.yaml": lambda path: path.mkdir(),
        "fifo.yaml": lambda path: os.mkfifo(path),
        "device.yaml": lambda path: path.symlink_to("/dev/zero"),
        "with space.yaml": lambda path: path.write_text("kind: Deployment"),
        "with\nnewline.yaml": lambda path: path.write_text("kind: Deployment"),
        "zwice.json": lambda path: path.write_text(json.dumps(pod("witness"))),
    }


def refused():
    """Put every bad file beside a pod that runs; what doctor says of each, and whether the pod noticed."""
    put(pod("witness"))
    wait_for(lambda: state("witness").get("ready"), "the witness")
    before = processes("witness")
    told = {}
    for folder in ("bad", "hostile"):
        for name, data in below(folder).items():
            (PODS / name).write_bytes(data)
            told[name] = ""
    for name, make in odd_files().items():
        make(PODS / name)
        told[name] = ""
    synced = subprocess.run([POD, "sync", "-o", "json"], capture_output=True, text=True, check=True)
    asked = ["/usr/lib/casemate/bin/casemate-health", "doctor"]
    doctor = subprocess.run(asked, capture_output=True, text=True, check=True)
    for finding in json.loads(doctor.stdout)["checks"]:
        if finding["id"].startswith("manifest-"):
            told[finding["id"].removeprefix("manifest-")] = finding["evidence"]
    found = {
        "told": told,
        "unusable": len(json.loads(synced.stdout)["unusable"]),
        "witness_untouched": processes("witness") == before and state("witness")["ready"],
        "pods": sorted(s.metadata.name for s in cri.sandboxes({"io.casemate.managed-by": "casemate-pod"})),
    }
    # a running pod whose manifest becomes wrong goes on
    (PODS / "witness.json").write_text("{")
    subprocess.run([POD, "sync"], check=True, capture_output=True)
    found["witness_outlives_its_manifest"] = processes("witness") == before
    (PODS / "zwice.json").unlink(missing_ok=True)
    clear()
    found["left"] = left_behind(["witness"])
    return found


class Registry(http.server.BaseHTTPRequestHandler):
    """A registry of one image, for those who know the password."""

    ALLOWED = "Basic " + base64.b64encode(f"someone:{SECRETS[0]}".encode()).decode()
    blobs: ClassVar[dict[str, bytes]] = {}
    manifest: ClassVar[str] = ""

    def do_GET(self):
        known = self.headers.get("Authorization") == self.ALLOWED
        name = self.path.rpartition("/")[2]
        data = self.blobs.get(self.manifest if name == "1" else name)
        self.send_response(401 if not known else 200 if data or self.path == "/v2/" else 404)
        if not known:
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
        is_manifest = "/manifests/" in self.path
        kind = "vnd.oci.image.manifest.v1+json" if is_manifest else "octet-stream"
        self.send_header("Content-Type", f"application/{kind}")
        self.send_header("Content-Length", str(len(data or b"") if known else 0))
        if is_manifest:
            self.send_header("Docker-Content-Digest", self.manifest)
        self.end_headers()
        if known and data and self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def pulled():
    """Pull a private image: with the pod's Secret, and without."""
    entries = [oci.Entry("bin"), oci.Entry("bin/busybox", Path("/bin/busybox").read_bytes()),
               *(oci.Entry(name) for name in ("proc", "sys", "dev", "etc"))]  # fmt: skip
    made = oci.build(oci.Image("x/y:1", entries, ["/bin/busybox", "sleep", "100000"]), recipes.architecture())
    with tarfile.open(fileobj=io.BytesIO(made)) as archive:
        for member in archive:
            if member.isfile() and member.name.startswith("blobs/sha256/"):
                Registry.blobs[f"sha256:{member.name.rpartition('/')[2]}"] = archive.extractfile(member).read()
        Registry.manifest = json.load(archive.extractfile("index.json"))["manifests"][0]["digest"]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    auths = {host: {"auth": Registry.ALLOWED.partition(" ")[2]}, "other.example": {"username": "a", "password": "b"}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "registry"},
              "type": "kubernetes.io/dockerconfigjson",
              "stringData": {".dockerconfigjson": json.dumps({"auths": auths})}}  # fmt: skip
    path = CONFIG / "secrets/registry.json"
    path.touch(0o600)
    path.write_text(json.dumps(secret))
    hosts = Path(f"/etc/containerd/certs.d/{host}/hosts.toml")  # containerd 1.7 asks loopback by TLS, too, if not told
    hosts.parent.mkdir(parents=True)
    hosts.write_text(f'[host."http://{host}"]\ncapabilities = ["pull", "resolve"]\n')
    image = {"image": f"{host}/private/app:1", "imagePullPolicy": "Always", "command": None}
    put(pod("without", container=image))
    wait_for(lambda: "PullImage" in state("without").get("reason", ""), "a refusal of the registry")
    found = {"without": state("without")["reason"]}
    put(pod("with", container=image, imagePullSecrets=[{"name": "registry"}]))
    wait_for(lambda: state("with").get("ready"), "a pod of a private image")
    found["secrets_seen"] = secrets_seen()
    clear()
    server.shutdown()
    shutil.rmtree(hosts.parent)
    subprocess.run(["ctr", "-n", "k8s.io", "images", "rm", image["image"]], check=True, capture_output=True)
    return found | {"left": left_behind(["with", "without"])}


def main(what, *arguments):
    actions = {"good": good, "changed": changed, "refused": refused, "pulled": pulled}
    try:
        print(json.dumps(actions[what](*arguments)))
    finally:
        clear()
        for path in WORK.iterdir():
            if path.name != "manifests.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
