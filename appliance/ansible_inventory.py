"""What Ansible itself makes of an inventory: hosts, groups and merged variables, read in this process.

Ansible's public loader classes do the reading, so that group_vars, children, ranges, scripts and `--limit` patterns
mean here what they mean in the run that follows. Importing this module costs about 0.3 s.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible import constants
from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.inventory.helpers import sort_groups
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import EncryptedString, get_file_vault_secret
from ansible.template import Templar
from ansible.utils.display import Display
from ansible.vars.manager import VariableManager

from appliance.schema import UNKNOWN, read_defaults

GROUP = "appliance"

# Names that only the run itself defines; a template over them cannot be judged before.
_RUN_TIME_NAMES = ("ansible_facts", "casemate_host", "hostvars", "lookup(", "query(", "q(")


# What Ansible adds to every host's variables on its own.
_ANSIBLE_OWN = constants.INTERNAL_STATIC_VARS | {"ansible_local"}


@dataclass(frozen=True)
class MergedHost:
    """A host of the group `appliance`: its groups weakest first, its variables as Ansible merges and templates them.

    Values known only during the run (vaulted, or templates over facts) are `schema.UNKNOWN`; `undefined` maps the
    names of variables whose template refers to something that exists nowhere to what Ansible says of it.
    """

    name: str
    groups: tuple[str, ...]
    variables: Mapping[str, object]
    undefined: Mapping[str, str]


@dataclass(frozen=True)
class Merged:
    """All hosts of the group, the names of those that the limit leaves, and what Ansible grumbled about."""

    hosts: tuple[MergedHost, ...]
    selected: frozenset[str]
    groups: frozenset[str]
    warnings: tuple[str, ...]


def merge(sources: list[Path], limit: str | None, content: Path) -> Merged:
    """Let Ansible read the sources. What it would only warn about is returned, what it refuses is a warning too."""
    warnings: list[str] = []
    with _collected(warnings):
        loader = DataLoader()
        if constants.DEFAULT_VAULT_PASSWORD_FILE:
            secret = get_file_vault_secret(
                filename=constants.DEFAULT_VAULT_PASSWORD_FILE, vault_id="default", loader=loader
            )
            secret.load()
            loader.set_vault_secrets([("default", secret)])
        try:
            manager = InventoryManager(loader=loader, sources=[str(source) for source in sources])
            if GROUP not in manager.groups:
                return Merged((), frozenset(), frozenset(manager.groups), tuple(warnings))
            variables = VariableManager(loader=loader, inventory=manager)
            defaults: dict[str, object] = {}
            for role in sorted(path.name for path in (content / "roles").iterdir()):
                defaults |= read_defaults(content, role)
            hosts = tuple(
                _host(host, variables.get_vars(host=host), loader, defaults) for host in manager.get_hosts(GROUP)
            )
            known_warnings = len(warnings)
            selected = frozenset(host.name for host in hosts)
            if limit is not None:
                manager.subset(limit)
                selected = frozenset(host.name for host in manager.get_hosts(GROUP))
            # A limit that matches nothing is ours to report, with the hosts there are.
            return Merged(hosts, selected, frozenset(manager.groups), tuple(warnings[:known_warnings]))
        except AnsibleError as error:
            return Merged((), frozenset(), frozenset(), (*warnings, str(error)))


def _host(host: object, variables: dict, loader: DataLoader, defaults: Mapping[str, object]) -> MergedHost:
    templar = Templar(loader=loader, variables={**defaults, **variables})
    values, undefined = {}, {}
    for name, value in variables.items():
        if name in _ANSIBLE_OWN:
            continue
        try:
            values[name] = _known(value, templar)
        except AnsibleUndefinedVariable as error:
            values[name] = UNKNOWN
            undefined[name] = str(error).splitlines()[0]
    groups = tuple(group.name for group in sort_groups(host.get_groups()))
    return MergedHost(host.name, groups, values, undefined)


def _known(value: object, templar: Templar) -> object:
    """`value` in plain Python types with its templates resolved; parts known only in the run become UNKNOWN."""
    if isinstance(value, EncryptedString):
        return UNKNOWN
    if isinstance(value, Mapping):
        return {_plain(key): _known(item, templar) for key, item in value.items()}
    if isinstance(value, list):
        return [_known(item, templar) for item in value]
    if not isinstance(value, str) or ("{{" not in value and "{%" not in value):
        return _plain(value)
    if any(name in value for name in _RUN_TIME_NAMES):
        return UNKNOWN
    try:
        result = templar.template(value)
    except AnsibleUndefinedVariable as error:
        if any(name in str(error) for name in _RUN_TIME_NAMES):
            return UNKNOWN
        raise
    except AnsibleError:
        return UNKNOWN
    return UNKNOWN if "{{" in str(result) else _known(result, templar)


def _plain(value: object) -> object:
    """Ansible marks scalars with where they come from, in subclasses; they go no further than this module."""
    for kind in (str, int, float):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)
    return value


@contextmanager
def _collected(warnings: list[str]) -> Iterator[None]:
    """Ansible's warnings go into the list instead of to the terminal."""
    display = Display()
    kept = display.warning, display.error_as_warning, display.deprecated

    def warning(msg: str, *_args: object, **_kwargs: object) -> None:
        warnings.append(msg)

    def error_as_warning(msg: str | None, exception: BaseException, *_args: object, **_kwargs: object) -> None:
        warnings.append(f"{msg or ''} {exception}".strip())

    display.warning, display.error_as_warning, display.deprecated = warning, error_as_warning, lambda *_a, **_k: None
    try:
        yield
    finally:
        display.warning, display.error_as_warning, display.deprecated = kept
