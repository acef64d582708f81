"""Images of registries, through skopeo: which digest a reference has, and a copy of it."""

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from appliance.errors import CasemateError
from appliance.node.images.store import repository

_SECONDS = 120


def digest(reference: str) -> str:
    """The digest (sha256:HEX) that a registry has for a reference; that of all platforms where it has several.

    Raises CasemateError with skopeo's own words.
    """
    return _skopeo("inspect", "--no-tags", "--format", "{{.Digest}}", f"docker://{reference}", about=reference).strip()


def pack(reference: str, digest: str, architectures: list[str], work: Path) -> Path:
    """An image of a registry, by digest, as an OCI layout in a tar below `work`: the same bytes for the same image.

    Of an image of several architectures, the one that is wanted; all of them, where more than one is.
    Raises CasemateError with skopeo's own words.
    """
    layout = Path(tempfile.mkdtemp(dir=work))
    which = ["--multi-arch", "all"] if len(architectures) > 1 else ["--override-arch", *architectures]
    _skopeo(
        "copy",
        "--quiet",
        *which,
        "--override-os",
        "linux",
        f"docker://{repository(reference)}@{digest}",
        f"oci:{layout}:{reference}",
        about=reference,
    )
    packed = layout.with_suffix(".tar")
    with tarfile.open(packed, "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(path for path in layout.rglob("*") if path.is_file()):
            info = tarfile.TarInfo(str(path.relative_to(layout)))
            info.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(info, file)
    shutil.rmtree(layout)
    return packed


def _skopeo(*arguments: str, about: str) -> str:
    try:
        done = subprocess.run(
            ["skopeo", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise CasemateError(
            f"skopeo is needed to ask for image {about}, and is not there", cure="apt-get install skopeo"
        ) from None
    except subprocess.TimeoutExpired:
        raise CasemateError(f"image {about}: the registry did not answer within {_SECONDS} s") from None
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or ["skopeo failed"]
        raise CasemateError(
            f"image {about}: {words[0]}", cure="is the reference right, and this machine logged in (skopeo login)?"
        )
    return done.stdout
