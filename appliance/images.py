"""Images of registries, through skopeo: which digest a reference has, and a copy of it."""

import subprocess

from appliance.errors import CasemateError

_SECONDS = 120


def digest(reference: str) -> str:
    """The digest (sha256:HEX) that a registry has for a reference; that of all platforms where it has several.

    Raises CasemateError with skopeo's own words.
    """
    return _skopeo("inspect", "--no-tags", "--format", "{{.Digest}}", f"docker://{reference}", about=reference).strip()


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
