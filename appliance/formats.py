"""What a value must look like, beyond its type: one checker a format.

A format judges one scalar. It knows nothing of variables; which variable has which format is in `schema.FORMATS`.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_DURATION = re.compile(r"(?:\d+y)?(?:\d+w)?(?:\d+d)?(?:\d+h)?(?:\d+m)?(?:\d+s)?(?:\d+ms)?")
_SIZE = re.compile(r"\d+(?:\.\d+)?(?:[KMGTPE](?:i?B)?|[kMGTPE]i?|B)?")
# The reference grammar of OCI's distribution specification: an optional registry, a path, a tag, a digest.
_IMAGE_PATH = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE_HOST = (
    r"(?:[A-Za-z0-9](?:[-A-Za-z0-9]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[-A-Za-z0-9]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])"
)
_IMAGE = re.compile(
    rf"(?:{_IMAGE_HOST}(?::\d+)?/)?{_IMAGE_PATH}(?:/{_IMAGE_PATH})*"
    r"(?::[A-Za-z0-9_][-.A-Za-z0-9_]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


@dataclass(frozen=True)
class Format:
    """A named form of a scalar: `expected` completes "expected ..." for a person, `accepts` judges a value."""

    expected: str
    accepts: Callable[[object], bool]


def _matches(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and bool(value) and pattern.fullmatch(value) is not None


def is_address(value: object) -> bool:
    """Whether `value` is the text of one IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(str(value))
    except ValueError:
        return False
    return isinstance(value, str)


def _is_cidr(version: int) -> Callable[[object], bool]:
    def accepts(value: object) -> bool:
        try:
            network = ipaddress.ip_network(str(value), strict=True)
        except ValueError:
            return False
        return isinstance(value, str) and "/" in value and network.version == version

    return accepts


def _is_mtu(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and (value == 0 or 1280 <= value <= 65535)


def _is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535


def _is_absolute_path(value: object) -> bool:
    return isinstance(value, str) and value.startswith("/") and ".." not in value.split("/") and "\n" not in value


def _is_device(value: object) -> bool:
    return _is_absolute_path(value) and str(value).startswith("/dev/") and len(str(value)) > len("/dev/")


def _is_listen_address(value: object) -> bool:
    return is_address(value) or _matches(_DNS_NAME)(value)


def _is_endpoint(value: object) -> bool:
    host, separator, port = str(value).rpartition(":")
    return (
        isinstance(value, str)
        and bool(separator)
        and port.isdigit()
        and _is_port(int(port))
        and _is_listen_address(host.removeprefix("[").removesuffix("]"))
    )


ADDRESS = Format("an IPv4 or IPv6 address", is_address)
CHECKSUM = Format(
    "sha256: and 64 hex digits, or sha512: and 128",
    _matches(re.compile(r"sha256:[0-9a-fA-F]{64}|sha512:[0-9a-fA-F]{128}")),
)
CIDR = Format("an IPv4 network in CIDR form with no host bits set, such as 10.88.0.0/16", _is_cidr(4))
CIDR6 = Format("an IPv6 network in CIDR form with no host bits set, such as fd00:86::/64", _is_cidr(6))
MTU = Format("a number of bytes from 1280 to 65535, or 0", _is_mtu)
PORT = Format("a port number from 1 to 65535", _is_port)
LISTEN = Format("an address or a host name to listen on", _is_listen_address)
ENDPOINT = Format("HOST:PORT, such as 192.0.2.10:9100", _is_endpoint)
HASH = Format("64 hex digits", _matches(re.compile(r"[0-9a-fA-F]{64}")))
# not a port of the host that is deployed to, so it clashes with none
REMOTE_PORT = Format("a port number of the other side, from 1 to 65535", _is_port)
REMOTE = Format("an address or a host name", _is_listen_address)
URL = Format(
    "a URL that begins with http://, https:// or file:///", _matches(re.compile(r"(https?://[^\s/]+|file://)/\S+"))
)
RELEASE = Format("a release such as v1.23.1", _matches(re.compile(r"v\d+\.\d+\.\d+([-.+][-.+\w]+)?")))
INTERFACE = Format("a network interface's name of at most 15 characters", _matches(re.compile(r"[^\s/:]{1,15}")))
PATH = Format("an absolute path with no `..` in it", _is_absolute_path)
DEVICE = Format("the path of a block device below /dev, such as /dev/vdb", _is_device)
DURATION = Format("a duration such as 15s, 5m or 30d", _matches(_DURATION))
QUOTA = Format("a whole number and K, M, G or T, such as 512M", _matches(re.compile(r"[1-9]\d{0,8}[KMGT]")))
VOLUME = Format("a name of at most 63 lower-case letters, digits and dashes", _matches(re.compile(_LABEL)))
SIZE = Format("a size such as 512M or 10GiB", _matches(_SIZE))
DNS_NAME = Format("a host name: letters a-z, digits, - and ., each label at most 63 long", _matches(_DNS_NAME))
IMAGE = Format("an image reference such as registry.example/app:1.2", _matches(_IMAGE))
