"""`casemate-images`: make the host's own images, and see to it that the engine has all that it should have."""

import argparse
import json
import sys
from pathlib import Path

from . import oci, recipes, store

DIRECTORY = Path("/var/lib/casemate/images")


def main(arguments: list[str] | None = None) -> int:
    """Run it; the exit code: 0 done, 1 failed, 2 bad usage. Prints {"changed": bool, "new": [reference]}."""
    parser = argparse.ArgumentParser(prog="casemate-images", description=__doc__)
    parser.add_argument("--demo", action="store_true", help="make and import the demo image as well")
    parser.add_argument("--archive", action="append", default=[], type=Path, help="an OCI archive to import")
    parser.add_argument("--pull", action="append", default=[], metavar="REFERENCE[=DIGEST]",
                        help="an image of a registry; with a digest, that one under this name")  # fmt: skip
    parser.add_argument("--check", action="store_true", help="only say what would be new")
    options = parser.parse_args(arguments)
    try:
        new = ensure(options)
    except FileNotFoundError as error:
        print(f"casemate-images: {error.filename} is missing; install the packages of engine_packages", file=sys.stderr)
        return 1
    except (oci.ArchiveError, store.StoreError) as error:
        print(f"casemate-images: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"changed": bool(new), "new": new}))
    return 0


def ensure(options: argparse.Namespace) -> list[str]:
    """Make, import and pull what is wanted and not there; the references that are new."""
    new: list[str] = []
    known = store.present()
    made = [recipes.pause()] + ([recipes.demo()] if options.demo else [])
    for image in made:
        data = oci.build(image, recipes.architecture())
        path = DIRECTORY / (image.reference.rpartition("/")[2].replace(":", "-") + ".tar")
        if not path.exists() or path.read_bytes() != data:
            if options.check:
                new.append(image.reference)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".new")
            temporary.write_bytes(data)
            temporary.rename(path)
        new += store.import_archive(path, known, options.check)
    for archive in options.archive:
        new += store.import_archive(archive, known, options.check)
    for reference in options.pull:
        name, _, digest = reference.partition("=")
        new += store.pull(name, digest, known, options.check)
    return new
