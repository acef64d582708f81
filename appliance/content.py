"""Where roles, playbooks, plugins and inventories are: in the wheel, or at the root of the checkout."""

import os
from pathlib import Path

from appliance.errors import CasemateError

PACKAGE = Path(__file__).resolve().parent


def content() -> Path:
    """The directory that holds `roles/`, `playbooks/`, `plugins/`, `inventories/` and `ansible.cfg`.

    $CASEMATE_CONTENT overrides. A checkout is preferred to `_content`, which only a wheel has: a stale copy in
    an editable install must never win.
    """
    override = os.environ.get("CASEMATE_CONTENT")
    candidates = [Path(override)] if override else [PACKAGE.parent, PACKAGE / "_content"]
    for candidate in candidates:
        if (candidate / "playbooks" / "deploy.yml").is_file() and (candidate / "roles").is_dir():
            return candidate.resolve()
    raise CasemateError(
        "the roles and playbooks are missing",
        place=", ".join(map(str, candidates)),
        cure="unset CASEMATE_CONTENT, or install the wheel again" if override else "install the wheel again",
    )


def inventory_path(given: Path) -> Path:
    """An inventory as the user named it, or, where that is not there, the one of this name that we ship."""
    if given.exists():
        return given
    shipped = content() / given
    return shipped if not given.is_absolute() and shipped.exists() else given
