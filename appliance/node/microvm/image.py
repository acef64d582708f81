"""The guest image: made on the host from the distribution's own packages, by the host's own apt.

A directory below guest/ holds ``vmlinuz``, ``initrd`` (an uncompressed cpio: busybox, the few modules a microVM
needs, init and agent), ``rootfs`` (erofs of the unpacked packages; none of their scripts ever runs), ``disk`` (an empty
file system, sparse, of which every pod gets a copy) and ``manifest.json``. Its name is a hash of what went in.
``guest/current`` is a link to the one in use and is put in place last, so a build that is killed half-way leaves the
old image or none.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from appliance.node.release.resolve import KERNEL

from . import cpio, qemu
from .settings import STATE, RuntimeFailure, Settings

if TYPE_CHECKING:
    from appliance.node.release.locked import Package, Release

GUEST = Path(__file__).with_name("guest")
IMAGES = STATE / "guest"
CURRENT = IMAGES / "current"
RELEASES = STATE.parent / "releases"

MODULES = (
    "virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng",
    "erofs", "ext4", "overlay", "9pnet_virtio", "9p",
)  # fmt: skip
"""Kernel modules that the guest loads, besides what they depend on and what is built in."""

LEFT_OUT = ("./usr/share/doc", "./usr/share/man", "./usr/share/locale", "./usr/share/info", "./usr/share/lintian")

Report = Callable[[str], None]


class Image(NamedTuple):
    """A finished guest image."""

    key: str
    directory: Path
    kernel: str

    @property
    def vmlinuz(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd"

    @property
    def rootfs(self) -> Path:
        return self.directory / "rootfs"

    @property
    def disk(self) -> Path:
        return self.directory / "disk"


def current() -> Image | None:
    """Return the image in use, whatever it was made from, or None."""
    try:
        manifest = json.loads((CURRENT / "manifest.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return Image(manifest["key"], CURRENT.resolve(), manifest["kernel"])


def mark(image: Image) -> str:
    """What a sandbox that is made now is of, guest image and QEMU, as one text to compare."""
    return f"{image.key} {qemu.identity()}"


def is_current(settings: Settings) -> bool:
    """Tell whether the image in use was made from what `settings` and these programs say."""
    try:
        return json.loads((CURRENT / "manifest.json").read_text())["inputs"] == _inputs(settings)
    except (FileNotFoundError, ValueError, KeyError):
        return False


def build(settings: Settings, report: Report, refresh: bool = False) -> Image:
    """Return the current image, made first where it is missing or made from something else.

    `refresh` asks apt again which versions it offers. Raises RuntimeFailure with apt's or mkfs.erofs's own words.
    """
    if not refresh and is_current(settings) and (image := current()):
        return image
    IMAGES.mkdir(parents=True, exist_ok=True)
    for leftover in IMAGES.glob(".new-*"):
        shutil.rmtree(leftover)
    work = Path(tempfile.mkdtemp(prefix=".new-", dir=IMAGES))
    try:
        made = work / "image"
        made.mkdir(mode=0o755)
        inputs = _inputs(settings)
        old = None if refresh else _reusable(inputs)
        manifest = _take_over(old, made) if old else _from_packages(settings, work, made, report)
        _write_initrd(made)
        _write_disk(made, settings.disk_gib)
        digest = hashlib.sha256(json.dumps([inputs, manifest["packages"]]).encode())
        manifest |= {"inputs": inputs, "key": digest.hexdigest()[:12]}
        (made / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        return _publish(made, manifest)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _inputs(settings: Settings) -> dict[str, str]:
    """Return what an image is made from: hashes of the packages' names and the recipe, and of our own programs."""
    recipe = hashlib.sha256(Path(__file__).read_bytes())
    if locked := _locked(settings):
        of = [[one.name, one.version, one.sha256] for one in _locked_packages(locked)]
    else:
        of = [_release(), settings.kernel_package, sorted(settings.guest_packages)]
    recipe.update(json.dumps(of).encode())
    ours = hashlib.sha256(f"disk {settings.disk_gib}\0".encode())
    for name, source in _our_files():
        ours.update(f"{name}\0".encode() + source.read_bytes())
    return {"packages": recipe.hexdigest(), "programs": ours.hexdigest()}


def _release() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise RuntimeFailure("/etc/os-release names no VERSION_CODENAME; the guest is made of the host's own release")


def _our_files() -> list[tuple[str, Path]]:
    return [
        ("init", GUEST / "init"),
        *((f"casemate/{name}", GUEST / name) for name in ("agent.py", "dial.py", "network.py")),
        ("casemate/protocol.py", Path(__file__).with_name("protocol.py")),
    ]


def _reusable(inputs: dict[str, str]) -> Path | None:
    """Return the current image when it holds the same packages and only our programs differ."""
    try:
        manifest = json.loads((CURRENT / "manifest.json").read_text())
        return CURRENT.resolve() if manifest["inputs"]["packages"] == inputs["packages"] else None
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _take_over(old: Path, made: Path) -> dict:
    for name in ("vmlinuz", "rootfs", "base.cpio"):
        os.link(old / name, made / name)
    manifest = json.loads((old / "manifest.json").read_text())
    return {key: manifest[key] for key in ("kernel", "packages")}


def _from_packages(settings: Settings, work: Path, made: Path, report: Report) -> dict:
    """Download and unpack the packages; write vmlinuz, rootfs and base.cpio into `made`."""
    locked = _locked(settings)
    files = _locked_files(locked) if locked else _offered(settings, work, report)
    root, kernel_root = work / "root", work / "kernel"
    root.mkdir()
    kernel_root.mkdir()
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    packages, jobs = {}, []
    report(f"guest image: unpacking {len(files)} packages")
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for deb, name, version in sorted(files, key=lambda file: -file[0].stat().st_size):
            packages[name] = version
            jobs.append(pool.submit(_unpack, deb, kernel_root if KERNEL.match(name) else root))
    for job in jobs:
        job.result()
    for name in ("proc", "sys", "dev", "run", "tmp", "etc", "casemate", "var"):
        (root / name).mkdir(exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\n")
    release = _write_base(root, kernel_root, made)
    report("guest image: writing the root file system")
    _run(["mkfs.erofs", "-T0", "-U00000000-0000-0000-0000-000000000000", str(made / "rootfs"), str(root)])
    return {"kernel": release, "packages": dict(sorted(packages.items()))}


def _offered(settings: Settings, work: Path, report: Report) -> list[tuple[Path, str, str]]:
    """Download what apt offers: each package's file, name and version."""
    debs = work / "debs"
    debs.mkdir()
    report("guest image: asking apt for the packages")
    userland = _closure(work, list(settings.guest_packages))
    kernel = [name for name in _closure(work, [settings.kernel_package]) if KERNEL.match(name)]
    if not kernel:
        raise RuntimeFailure(f"{settings.kernel_package} leads to no kernel package; set kernel_package (microvm role)")
    _run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *userland, *kernel], cwd=debs)
    named = [(deb, deb.name.split("_")) for deb in debs.iterdir()]
    return [(deb, name, version.replace("%3a", ":")) for deb, (name, version, _) in named]


def _locked(settings: Settings) -> Release | None:
    """The release that guests are to be made of, where a lock says so."""
    if not settings.release:
        return None
    from appliance.node.release.locked import LockError, load  # not for those that only start guests

    try:
        return load(Path(settings.release).name)
    except LockError as error:
        raise RuntimeFailure(str(error)) from None


def _locked_packages(release: Release) -> list[Package]:
    return [release.packages[name] for name in (*release.guest, *release.kernel)]


def _locked_files(release: Release) -> list[tuple[Path, str, str]]:
    """The lock's own files: each package's file, name and version."""
    from appliance.node.release.install import is_right

    found = [(release.debs / one.file, one) for one in _locked_packages(release)]
    if wrong := [f"{one.name} {one.version}" for path, one in found if not is_right(path, one)]:
        raise RuntimeFailure(f"{release.debs} lacks {', '.join(wrong)}; deploy with lock {release.id} again")
    return [(path, one.name, one.version) for path, one in found]


def _closure(work: Path, packages: list[str]) -> list[str]:
    """Return the names of `packages` and all they depend on, as if nothing were installed."""
    status = work / "status"
    status.touch()
    out = _run(
        ["apt-get", "-q", "-y", "--no-install-recommends", "--print-uris", "-o", f"Dir::State::status={status}",
         "-o", "Debug::NoLocking=1", "-o", "Dir::Cache::archives=/nonexistent", "install", *packages]
    )  # fmt: skip
    return sorted(set(re.findall(r"^'\S+' ([^_\s]+)_\S+\.deb ", out, re.MULTILINE)))


def _unpack(deb: Path, target: Path) -> None:
    """Unpack one package; from a kernel package just the kernel and the modules."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as stream:
        exclude = [f"--exclude={path}" for path in LEFT_OUT]
        argv = ["tar", "-x", "-C", str(target), "--keep-directory-symlink", *exclude]
        done = subprocess.run(argv, stdin=stream.stdout, capture_output=True, text=True)
    if done.returncode or stream.returncode:
        raise RuntimeFailure(f"cannot unpack {deb.name}: {done.stderr.strip() or 'dpkg-deb failed'}; is the disk full?")


def _write_base(root: Path, kernel_root: Path, made: Path) -> str:
    """Write vmlinuz and base.cpio (busybox and the modules in loading order); return the kernel's release."""
    (vmlinuz,) = (kernel_root / "boot").glob("vmlinuz-*")
    release = vmlinuz.name.removeprefix("vmlinuz-")
    shutil.copyfile(vmlinuz, made / "vmlinuz")
    modules = _modules(
        next(p for p in (kernel_root / "lib/modules", kernel_root / "usr/lib/modules") if p.is_dir()) / release
    )
    archive = cpio.Writer()
    for name in ("bin", "modules", "dev", "proc", "sys", "lower", "rw", "root"):
        archive.directory(name)
    archive.file("bin/busybox", (root / "usr/bin/busybox").read_bytes(), 0o755)
    archive.file("modules/order", "".join(f"{name}.ko\n" for name in modules).encode())
    for name, content in modules.items():
        archive.file(f"modules/{name}.ko", content)
    (made / "base.cpio").write_bytes(archive.end())
    return release


def _modules(tree: Path) -> dict[str, bytes]:
    """Return MODULES and what they depend on, name -> contents, in the order in which they load."""
    files = {path.name.split(".ko")[0].replace("-", "_"): path for path in tree.rglob("*.ko*")}
    builtin = {Path(line).stem.replace("-", "_") for line in (tree / "modules.builtin").read_text().splitlines()}
    loaded: dict[str, bytes] = {}

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in loaded or name in builtin:
            return
        if name not in files:
            raise RuntimeFailure(
                f"the kernel package has no module {name}; choose another kernel_package (microvm role)"
            )
        path = files[name]
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        if path.suffix not in (".ko", ".xz"):
            content = _run_bytes(["zstd", "-dc", str(path)])
        depends = re.search(rb"\0depends=([^\0]*)\0", content)
        for other in depends[1].decode().split(",") if depends and depends[1] else ():
            add(other)
        for soft in re.findall(rb"\0softdep=pre: ([^\0]*)\0", content):
            for other in soft.decode().replace("-", "_").split():  # a cipher by its algorithm's name, most often
                for candidate in (other, f"{other}_generic"):
                    if candidate in files:
                        add(candidate)
        loaded[name] = content

    for name in MODULES:
        add(name)
    return loaded


def _write_initrd(made: Path) -> None:
    """Write initrd: base.cpio, then our own programs as an archive of their own."""
    archive = cpio.Writer()
    archive.directory("casemate")
    for name, source in _our_files():
        archive.file(name, source.read_bytes(), 0o755)
    (made / "initrd").write_bytes((made / "base.cpio").read_bytes() + archive.end())


def _write_disk(made: Path, gib: int) -> None:
    """Write disk: ext4 without a journal, which a disk that ends with its pod has no use for."""
    features = "^has_journal,^resize_inode"
    _run(
        ["mkfs.ext4", "-q", "-m0", "-O", features, "-E", "lazy_itable_init=1,nodiscard", str(made / "disk"), f"{gib}G"]
    )


def _publish(made: Path, manifest: dict) -> Image:
    final = IMAGES / manifest["key"]
    if final.exists():
        shutil.rmtree(final)
    # On disk before the link says so: a power cut must not leave a link to empty files.
    for file in made.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    made.rename(final)
    link = IMAGES / ".current"
    link.unlink(missing_ok=True)
    link.symlink_to(final.name)
    link.replace(CURRENT)
    # Guests that run hold the old files open; nothing else needs them, but for a release that may come back: those of
    # locked releases go with them (see release/transaction.py).
    for old in IMAGES.iterdir() if not RELEASES.exists() else ():
        if old.is_dir() and not old.is_symlink() and old != final and not old.name.startswith("."):
            shutil.rmtree(old)
    return Image(manifest["key"], final, manifest["kernel"])


def _run(argv: list[str], cwd: Path | None = None) -> str:
    """Run a tool to its end and return its output. Raises RuntimeFailure with its last words."""
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    except FileNotFoundError:
        raise RuntimeFailure(f"{argv[0]} is not installed; deploy installs it (microvm_packages)") from None
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        hint = "; are the package lists current (apt-get update)?" if argv[0] == "apt-get" else ""
        raise RuntimeFailure(f"{argv[0]} failed: {words}{hint}")
    return done.stdout


def _run_bytes(argv: list[str]) -> bytes:
    return subprocess.run(argv, capture_output=True, check=True).stdout
