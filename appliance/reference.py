"""The list of all inventory variables in docs/inventory.md, made from the roles: `python -m appliance.reference`.

A test says whether the page is current.
"""

import json
from pathlib import Path

from appliance.schema import Option, read_options

PAGE = Path("docs/inventory.md")
_LONGEST_DEFAULT = 60  # characters, in a column of a table
_BEGIN = "<!-- The rest of this page is made by `python -m appliance.reference`; changes here are lost. -->\n"
# The order in which the roles run, which is also that in which a person meets them.
_ROLES = ("preflight", "base", "storage", "engine", "microvm", "edge", "pods", "monitoring")


def render(page: str, content: Path) -> str:
    """`page` with its list of variables made anew from the roles below `content`."""
    head = page.partition(_BEGIN)[0]
    options = read_options(content)
    roles = sorted(
        {option.role for option in options.values()},
        key=lambda role: (_ROLES.index(role) if role in _ROLES else len(_ROLES), role),
    )
    return head + _BEGIN + "".join(_section(role, options) for role in roles)


def _section(role: str, options: dict[str, Option]) -> str:
    lines = [
        f"\n## {role}\n",
        f"Explained in full in [roles/{role}/defaults/main.yml](../roles/{role}/defaults/main.yml).\n",
    ]
    lines += ["| Variable | Type | Default | |", "|---|---|---|---|"]
    for option in options.values():
        if option.role == role:
            lines += _rows(option, f"`{option.name}`")
    return "\n".join(lines) + "\n"


def _rows(option: Option, title: str) -> list[str]:
    default = "required" if option.required else _default(option.default)
    form = f" Expected: {option.format.expected}." if option.format else ""
    rows = [f"| {title} | {_type(option)} | {default} | {option.description}{form} |".replace("|  |", "| |")]
    nested = option.element.options if option.element else option.options
    for child in nested.values():
        rows += _rows(child, f"{title} / `{child.name}`")
    return rows


def _default(value: object) -> str:
    if value is None:
        return ""
    text = json.dumps(value)
    return f"`{text}`" if len(text) <= _LONGEST_DEFAULT else "see the role"


def _type(option: Option) -> str:
    if option.choices:
        return " or ".join(f"`{choice}`" for choice in option.choices)
    return f"list of {option.element.type}" if option.element else option.type


def main() -> None:
    """Write the page of this checkout."""
    root = Path(__file__).parents[1]
    page = root / PAGE
    page.write_text(render(page.read_text(encoding="utf-8"), root), encoding="utf-8")


if __name__ == "__main__":
    main()
