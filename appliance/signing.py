"""The site's key: what bundles are signed with, and whose bundles are believed.

The key is made at the first `bundle build`, by gpg, in a directory of its own; it never leaves this machine. Public
keys that are believed besides are files in `keys/`, one each, named by their fingerprint.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from appliance.errors import CasemateError

_USER = "Casemate site key"
_SECONDS = 60


def directory() -> Path:
    """Where the keys are: $XDG_CONFIG_HOME/casemate, which only its owner can read."""
    path = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "casemate"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


class SiteKey:
    """The key of this machine's user; a context, after which no agent of gpg's is left."""

    def __init__(self, home: Path | None = None):
        self._home = home or directory() / "signing"
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._fingerprints():
            self._gpg("--batch", "--passphrase", "", "--quick-generate-key", _USER, "ed25519", "sign", "never")
        self.fingerprint, self.made = self._fingerprints()[0]

    def __enter__(self) -> "SiteKey":
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self._home), "--kill", "gpg-agent"], check=False, timeout=_SECONDS)

    def public(self) -> bytes:
        """The public key, armoured."""
        return self._gpg("--armor", "--export-options", "export-minimal", "--export", self.fingerprint)

    def sign(self, data: bytes) -> bytes:
        """A detached signature: the same for the same data, since it is dated as the key is."""
        return self._sign("--detach-sign", data)

    def sign_clear(self, data: bytes) -> bytes:
        """A text with its signature below it, as apt's InRelease is."""
        return self._sign("--clear-sign", data)

    def _sign(self, how: str, data: bytes) -> bytes:
        dated = f"--faked-system-time={self.made}!"
        return self._gpg("--batch", dated, "--local-user", self.fingerprint, "--digest-algo", "SHA512", how, data=data)

    def _fingerprints(self) -> list[tuple[str, int]]:
        listed = self._gpg("--with-colons", "--list-secret-keys").decode()
        made = re.findall(r"^sec:(?:[^:]*:){4}(\d+):", listed, re.MULTILINE)
        names = re.findall(r"^fpr:(?:[^:]*:){8}([0-9A-F]{40}):", listed, re.MULTILINE)
        return [(name, int(moment)) for name, moment in zip(names, made, strict=False)]

    def _gpg(self, *arguments: str, data: bytes = b"") -> bytes:
        return _run(["gpg", "--homedir", str(self._home), "--quiet", "--no-tty", *arguments], data)


def believed() -> dict[str, bytes]:
    """The public keys that are believed, by fingerprint: the site's own, where there is one, and those in keys/."""
    found = {path.stem: path.read_bytes() for path in sorted((directory() / "keys").glob("*.asc"))}
    if (directory() / "signing").is_dir():
        with SiteKey() as key:
            found[key.fingerprint] = key.public()
    return found


def believe(public: bytes) -> str:
    """Keep a public key among those that are believed; its fingerprint."""
    fingerprint = fingerprint_of(public)
    keys = directory() / "keys"
    keys.mkdir(exist_ok=True, mode=0o700)
    (keys / f"{fingerprint}.asc").write_bytes(public)
    return fingerprint


def fingerprint_of(public: bytes) -> str:
    """The fingerprint of an armoured public key. Raises CasemateError where it is none."""
    with tempfile.TemporaryDirectory() as home:
        listed = _run(
            ["gpg", "--homedir", home, "--quiet", "--no-tty", "--with-colons", "--show-keys"], public
        ).decode()
    names = re.findall(r"^fpr:(?:[^:]*:){8}([0-9A-F]{40}):", listed, re.MULTILINE)
    if not names:
        raise CasemateError("this is no public key")
    return names[0]


def is_signed_by(public: bytes, data: bytes, signature: bytes) -> bool:
    """Whether `signature` is one of this key over `data`."""
    with tempfile.TemporaryDirectory() as scratch:
        ring, text, signed = (Path(scratch, name) for name in ("ring", "data", "signature"))
        ring.write_bytes(_run(["gpg", "--homedir", scratch, "--quiet", "--no-tty", "--dearmor"], public))
        text.write_bytes(data)
        signed.write_bytes(signature)
        argv = ["gpgv", "--homedir", scratch, "--quiet", "--keyring", str(ring), str(signed), str(text)]
        try:
            return subprocess.run(argv, capture_output=True, check=False, timeout=_SECONDS).returncode == 0
        except FileNotFoundError:
            raise _missing("gpgv") from None


def _run(argv: list[str], data: bytes = b"") -> bytes:
    try:
        done = subprocess.run(argv, input=data, capture_output=True, check=False, timeout=_SECONDS)
    except FileNotFoundError:
        raise _missing(argv[0]) from None
    if done.returncode:
        raise CasemateError(f"gpg failed: {done.stderr.decode(errors='replace').strip()[-300:]}", place=argv[2])
    return done.stdout


def _missing(program: str) -> CasemateError:
    return CasemateError(f"{program} is not installed, and bundles are signed with it", cure="apt-get install gnupg")
