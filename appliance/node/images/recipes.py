"""The images made from distribution packages: `pause` holds a pod's namespaces, `demo` serves a page about itself."""

import platform
from pathlib import Path

from .oci import Entry, Image

PAUSE = "localhost/casemate/pause:1"
DEMO = "localhost/casemate/demo:1"

_DEMO_FILES = Path(__file__).parent / "demo"
_APPLETS = ("sh", "httpd", "cat", "uname", "hostname", "sleep", "wget", "ps", "ls")
# Go's names of architectures, by uname's
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture() -> str:
    """This machine's architecture as images name it."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def pause(root: Path = Path("/")) -> Image:
    """A static catatonit that does nothing until it is told to end; from the package catatonit below `root`."""
    program = (root / "usr/bin/catatonit").read_bytes()
    return Image(PAUSE, [Entry("pause", program)], ["/pause", "-P"])


def demo(root: Path = Path("/")) -> Image:
    """Busybox's web server with one page, made anew for each request; from the package busybox-static."""
    busybox = (root / "bin/busybox").read_bytes()
    page = (_DEMO_FILES / "index.cgi").read_bytes()
    entries = [
        Entry("bin"),
        Entry("bin/busybox", busybox),
        *(Entry(f"bin/{applet}", target="busybox") for applet in _APPLETS),
        Entry("etc"),
        Entry("etc/passwd", b"nobody:x:65534:65534:nobody:/:/bin/sh\n", mode=0o644),
        Entry("etc/group", b"nogroup:x:65534:\n", mode=0o644),
        Entry("tmp", mode=0o1777),
        Entry("www"),
        Entry("www/cgi-bin"),
        Entry("www/cgi-bin/index.cgi", page),
    ]
    # httpd runs /cgi-bin/index.cgi for / where there is no index.html
    return Image(DEMO, entries, ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"], ports=["8080/tcp"])
