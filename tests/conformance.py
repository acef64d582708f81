"""The manifests of tests/manifests: good ones that promise something, bad and hostile ones and what is said of them.

A wrong manifest begins with a comment `# expect: TEXT`; JSON has no comments, so those are here, with the files that a
test makes, as no repository should hold them (tests/inside/manifests.py).
"""

import base64
import json
from pathlib import Path

DIRECTORY = Path(__file__).parent / "manifests"

EXPECTED = {
    "json-comma.json": "is not JSON",
    "json-half-pair.json": "metadata.labels.a: has half of a surrogate pair",
    "json-key-twice.json": "key 'kind' is written twice",
    "json-yaml.json": "is not JSON",
}
MADE = {
    "huge.yaml": "is larger than 1 MiB",
    "deep.yaml": "is not YAML|nested too deeply",
    "deep.json": "nested too deeply",
    "wide.yaml": "has more than 50000 values",
    "binary.yaml": "is not UTF-8 text",
    "latin.yaml": "is not UTF-8 text",
    "utf16.yaml": "is not UTF-8 text",
    "digits.yaml": "has a value that cannot be read",
    "loop.yaml": "is not a file",
    "dangling.yaml": "is not a file",
    "folder.yaml": "is not a file",
    "fifo.yaml": "is not a file",
    "device.yaml": "is not a file",
    "with space.yaml": "kind: expected Pod",
    "'with\\nnewline.yaml'": "kind: expected Pod",
    "zwice.json": "'witness' is already declared in",
}


def files(*folders: str) -> list[Path]:
    """The manifests of some of good, bad, hostile and objects."""
    return sorted(path for folder in folders for path in (DIRECTORY / folder).iterdir())


def expected(path: Path) -> str:
    """A part of what is said of a wrong manifest."""
    if path.name in EXPECTED:
        return EXPECTED[path.name]
    first = path.read_text().partition("\n")[0]
    assert first.startswith("# expect: "), path
    return first.removeprefix("# expect: ")


def packed() -> str:
    """All of them as JSON: base64 by path."""
    return json.dumps(
        {
            str(path.relative_to(DIRECTORY)): base64.b64encode(path.read_bytes()).decode()
            for path in files("good", "bad", "hostile", "objects")
        }
    )
