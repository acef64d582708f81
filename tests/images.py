"""Images of real workloads, made of distribution packages with no registry; kept on this machine between runs.

`archive("postgres")` is an OCI archive that `casemate-images --archive` (or `ctr images import`) takes in a lab host.
No package's scripts run, so nothing is set up in them: the pods that use them say all they need.
"""

import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

from appliance.lab import image as lab_image
from appliance.lab import manage, state
from appliance.node.images import oci, recipes

RELEASE = "bookworm"
FORMAT = 2  # one more when what is made of the same packages changes
PACKAGES = {
    "busybox": [],
    "python": ["python3-minimal", "libpython3-stdlib", "attr", "libcap2-bin"],
    "nginx": ["nginx-light"],
    "redis": ["redis-server"],
    "postgres": ["postgresql-15"],
    "s3cmd": ["s3cmd", "python3-magic", "python3-dateutil", "ca-certificates"],
}
# what nothing here reads: PostgreSQL's compiler for queries (half of its image) and what only its packaging uses
LEFT_OUT = (
    "usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/info/", "usr/share/lintian/", "usr/share/perl",
    "usr/share/i18n/", "usr/lib/x86_64-linux-gnu/perl", "usr/lib/x86_64-linux-gnu/gconv/", "usr/bin/perl",
    "usr/lib/x86_64-linux-gnu/libLLVM", "usr/lib/x86_64-linux-gnu/libz3", "usr/lib/x86_64-linux-gnu/libperl",
    "usr/lib/postgresql/15/lib/bitcode/", "var/lib/dpkg/", "var/lib/apt/", "var/cache/", "dev/",
)  # fmt: skip
APPLETS = (
    "sh", "cat", "ls", "cp", "mv", "rm", "mkdir", "touch", "chmod", "chown", "ln", "sleep", "echo", "head", "tail",
    "tr", "wc", "md5sum", "dd", "df", "du", "find", "tar", "wget", "date", "id", "sync", "stat", "kill", "uname",
    "hostname", "ps", "grep", "sed", "test", "true", "false", "seq",
)  # fmt: skip
ACCOUNTS = {
    "etc/passwd": b"root:x:0:0:root:/:/bin/sh\npostgres:x:999:999::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    "etc/group": b"root:x:0:\npostgres:x:999:\nnogroup:x:65534:\n",
}


def reference(name: str) -> str:
    """The full name of an image of PACKAGES."""
    return f"localhost/casemate-test/{name}:1"


def archive(name: str) -> Path:
    """The OCI archive of an image of PACKAGES, made if it is missing (5 to 30 s)."""
    recipe = repr([FORMAT, PACKAGES[name], LEFT_OUT, APPLETS, ACCOUNTS, lab_image.apt_sources(RELEASE)])
    path = state.cache_dir() / f"image-{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.tar"
    if path.exists():
        return path
    state.cache_dir().mkdir(parents=True, exist_ok=True)
    for old in state.cache_dir().glob(f"image-{name}-*"):
        old.unlink()
    with tempfile.NamedTemporaryFile(dir=state.cache_dir(), prefix=".image-", delete=False) as making:
        making.write(oci.build(_image(name), recipes.architecture()))
    Path(making.name).rename(path)
    return path


def _image(name: str) -> oci.Image:
    entries = {entry.path: entry for entry in _unpacked(["busybox-static", *PACKAGES[name]])}
    for path in ("tmp", "var/tmp"):
        entries[path] = oci.Entry(path, mode=0o1777)
    for path in ("proc", "sys", "dev", "run", "etc"):
        entries[path] = oci.Entry(path)
    for path, data in ACCOUNTS.items():
        entries[path] = oci.Entry(path, data, mode=0o644)
    for applet in APPLETS:
        entries.setdefault(f"bin/{applet}", oci.Entry(f"bin/{applet}", target="busybox"))
    environment = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    return oci.Image(reference(name), entries.values(), ["/bin/sh"], user="", environment=environment)


def _unpacked(packages: list[str]) -> list[oci.Entry]:
    """The files of `packages` and of all that they depend on, as entries of a layer, owned by root."""
    sources = lab_image.apt_sources(RELEASE)
    with tempfile.TemporaryDirectory() as work:
        tar = Path(work, "root.tar")
        argv = ["mmdebstrap", "--variant=extract", f"--include={','.join(packages)}", RELEASE, str(tar)]
        subprocess.run(
            argv + (["-"] if sources else []), input="\n".join(sources), text=True, check=True, capture_output=True
        )
        with tarfile.open(tar) as content:
            return [e for member in content if (e := _entry(content, member))]


def _entry(content: tarfile.TarFile, member: tarfile.TarInfo) -> oci.Entry | None:
    path = member.name.removeprefix("./").strip("/")
    if path in ("", ".") or f"{path}/".startswith(LEFT_OUT) or path.startswith(LEFT_OUT):
        return None
    if member.issym():
        return oci.Entry(path, target=member.linkname)
    if member.isdir():
        return oci.Entry(path, mode=member.mode)
    if member.isreg() or member.islnk():
        return oci.Entry(path, content.extractfile(member).read(), mode=member.mode)
    return None


def load(host: state.Host, *names: str) -> None:
    """See to it that the engine of a deployed lab host has these images."""
    for name in names:
        script = (
            'ctr -n k8s.io images ls -q | grep -qxF "$0" && exit 0; f=$(mktemp) && trap "rm $f" EXIT && cat > $f '
            "&& ctr -n k8s.io images import $f >&2"
        )
        with archive(name).open("rb") as file:
            argv = manage.shell(host.name, ["sh", "-c", script, reference(name)])
            done = subprocess.run(argv, stdin=file, capture_output=True, text=True)
        assert done.returncode == 0, f"{host.name}: cannot import {name}: {done.stderr}"
