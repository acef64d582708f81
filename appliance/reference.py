"""Pages with lists made from what they tell of: `python -m appliance.reference`.

docs/inventory.md lists the roles' variables, docs/pods.md the fields of a Pod. A test says whether they are current.
"""

import json
from pathlib import Path

from appliance.node.pods.fields import INSTEAD, SUPPORTED, VOLUME_INSTEAD
from appliance.schema import Option, read_options

PAGE = Path("docs/inventory.md")
PODS_PAGE = Path("docs/pods.md")
_LONGEST_DEFAULT = 60  # characters, in a column of a table
_BEGIN = "<!-- The rest of this page is made by `python -m appliance.reference`; changes here are lost. -->\n"
# The order in which the roles run, which is also that in which a person meets them.
_ROLES = ("preflight", "base", "storage", "engine", "microvm", "edge", "objects", "pods", "backup", "monitoring")


def render(page: str, content: Path) -> str:
    """`page` with its list of variables made anew from the roles below `content`."""
    head = page.partition(_BEGIN)[0]
    options = read_options(content)
    roles = sorted(
        {option.role for option in options.values()},
        key=lambda role: (_ROLES.index(role) if role in _ROLES else len(_ROLES), role),
    )
    return head + _BEGIN + "".join(_section(role, options) for role in roles)


def render_pods(page: str) -> str:
    """`page`, docs/pods.md, with its lists of fields made anew from the pod runner's table."""
    lines = ["", "## Supported fields", "", "| Type | Fields |", "|---|---|"]
    for kind, rules in SUPPORTED.items():
        if names := [_field(name, rule) for name, rule in rules.items() if name]:
            lines.append(f"| {kind} | {', '.join(names)} |")
    lines += ["", "## Fields of Kubernetes that are refused", "", "Every other field, too; these have a way out:", ""]
    lines += ["| Field | Instead |", "|---|---|"]
    ways: dict[str, list[str]] = {}
    for field, way in INSTEAD.items():
        ways.setdefault(way, []).append(field)
    lines += [f"| {', '.join(f'`{field}`' for field in fields)} | {way} |" for way, fields in ways.items()]
    lines.append(f"| other fields of `Volume` | {VOLUME_INSTEAD} |")
    return page.partition(_BEGIN)[0] + _BEGIN + "\n".join(lines) + "\n"


def _field(name: str, rule: dict) -> str:
    values = [json.dumps(value) if value in ("", False) else str(value) for value in rule.get("enum", [])]
    remark = "; ".join(filter(None, [", ".join(values), rule.get("description", "")]))
    return f"`{name}` ({remark})" if remark else f"`{name}`"


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
    """Write the pages of this checkout."""
    root = Path(__file__).parents[1]
    for page, made in ((root / PAGE, lambda text: render(text, root)), (root / PODS_PAGE, render_pods)):
        page.write_text(made(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
