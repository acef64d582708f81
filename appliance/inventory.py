"""The inventory: what the command works on, checked as a whole before any host is touched.

`load` reads the sources through Ansible, compares every variable with the roles' argument specifications, and raises
one `InventoryError` with everything that is wrong.
"""

import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance import backups, edge, manifests, objects, schema, storage
from appliance.connection_variables import known_connection_variables
from appliance.errors import UsageError
from appliance.formats import CIDR, CIDR6, DNS_NAME, ENDPOINT, PORT, is_address
from appliance.positions import Positions, Problem, dotted, suggestion
from appliance.schema import UNKNOWN, Finding, Option

if TYPE_CHECKING:
    from appliance.ansible_inventory import Merged, MergedHost

GUIDE = "docs/inventory.md"
_PODS = "pods"
_PODS_GUIDE = "roles/pods/defaults/main.yml"
_VAULT_CURE = "the file with the password, named by the environment variable ANSIBLE_VAULT_PASSWORD_FILE"
_SHOWN = 60  # characters of a value in a message
_MASK = "********"


class InventoryError(UsageError):
    """The inventory is wrong; `problems` is everything that is, in the order of the files."""

    def __init__(self, problems: list[Problem]) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        text = "\n".join(str(problem) for problem in problems)
        super().__init__(
            f"the inventory has {count}; no host was touched\n{text}",
            place=problems[0].file,
            cure="correct what is listed and run the same command again",
        )
        self.problems = problems

    def as_dict(self) -> dict:
        """`CasemateError`'s keys with a short `error`, and `problems`: a list of `positions.Problem` as objects."""
        short = self.message.splitlines()[0]
        return super().as_dict() | {"error": short, "problems": [asdict(problem) for problem in self.problems]}


@dataclass(frozen=True)
class Host:
    """One host to deploy to: its merged variables (`schema.UNKNOWN` where known only in the run) and its groups."""

    name: str
    vars: Mapping[str, object]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Inventory:
    """The hosts of the group `appliance` that the limit leaves, in inventory order."""

    hosts: tuple[Host, ...]
    sources: tuple[Path, ...]


def load(sources: list[Path], limit: str | None = None, *, content: Path) -> Inventory:
    """Read and check the inventory. `content` is the directory that holds roles/.

    The whole inventory is checked, also where `limit` leaves a part of it. Raises InventoryError with every problem
    found, UsageError when the limit matches none of its hosts.
    """
    missing = [
        Problem(str(source), None, "", "", "does not exist", "the path of an inventory file or directory")
        for source in sources
        if not source.exists()
    ]
    if missing or not sources:
        raise InventoryError(missing or [Problem("", None, "", "", "no inventory is given", "-i FILE or -i DIRECTORY")])
    positions = Positions.read(sources)
    if positions.broken:
        raise InventoryError(positions.problems)

    from appliance.ansible_inventory import merge  # costs 0.3 s, and a broken file never needs it

    merged = merge(sources, limit, content)
    problems = positions.problems + _judge(merged, positions, sources, content)
    if problems:
        raise InventoryError(_ordered(problems))
    hosts = tuple(Host(host.name, host.variables, host.groups) for host in merged.hosts if host.name in merged.selected)
    if not hosts:
        names = ", ".join(host.name for host in merged.hosts)
        raise UsageError(
            f"--limit {limit} matches no host of the inventory",
            place=", ".join(str(source) for source in sources),
            cure=f"name one or more of its hosts: {names}",
        )
    return Inventory(hosts, tuple(sources))


def _judge(merged: "Merged", positions: Positions, sources: list[Path], content: Path) -> list[Problem]:
    source = str(sources[0])
    problems = []
    if not positions.problems:  # else Ansible's warnings repeat, without a line, what is already listed
        for text in merged.warnings:
            locked = positions.vaulted and "vault" in text.lower()
            file, expected = (positions.vaulted[0], _VAULT_CURE) if locked else (source, "")
            problems.append(Problem(file, None, "", "", " ".join(text.split()), expected))
    if not merged.hosts and not positions.problems and not problems:
        problems.append(_no_hosts(merged, source))
    options = schema.read_options(content)
    connection = known_connection_variables(content)
    for host in merged.hosts:
        judge = _HostJudge(host, positions, source, options, connection)
        problems += judge.problems()
    return [*problems, *_same_machine(merged.hosts, positions, source), *_same_node(merged.hosts, positions, source)]


def _no_hosts(merged: "Merged", source: str) -> Problem:
    expected = "appliance: with hosts: and at least one host below it (inventories/lab: run `appliance lab up` first)"
    if "appliance" in merged.groups:
        return Problem(source, None, "appliance.hosts", "", "the group `appliance` has no hosts", expected)
    named = sorted(merged.groups - {"all", "ungrouped"})
    found = f"; the groups here: {', '.join(named)}" if named else ""
    return Problem(source, None, "appliance", "", f"there is no group `appliance`{found}", expected)


def _ordered(problems: Iterable[Problem]) -> list[Problem]:
    """Each problem once (a group's variable is met on each of its hosts), in the order of the files."""
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.file, problem.line or 0))


class _HostJudge:
    """Checks the variables of one host and ties each finding to the file and line it comes from."""

    def __init__(
        self,
        host: "MergedHost",
        positions: Positions,
        source: str,
        options: Mapping[str, Option],
        connection: frozenset[str],
    ) -> None:
        self._host = host
        self._positions = positions
        self._source = source
        self._options = options
        self._connection = connection

    def problems(self) -> Iterator[Problem]:
        yield from self._name()
        for name, value in self._host.variables.items():
            yield from self._variable(name, value)
        for option in self._options.values():
            if option.required and self._value(option.name) is None:
                where = self._positions.host(self._host.name)
                yield Problem(
                    where.file if where else self._source,
                    where.line if where else None,
                    self._host_key(),
                    "",
                    f"lacks {option.name}, which has no default",
                    option.description,
                    option.documented,
                )
        yield from self._ports()
        yield from self._networks()
        for name, finding in edge.check_edge(self._value):
            yield self._problem(name, finding, edge.DOCUMENTED)
        for name, finding in storage.check_devices(self._value):
            yield self._problem(name, finding, storage.DOCUMENTED)
        for name, finding in backups.check_backups(self._value):
            yield self._problem(name, finding, backups.DOCUMENTED)
        for name, finding in objects.check_objects(self._value):
            yield self._problem(name, finding, objects.DOCUMENTED)
        yield from self._volumes()

    def _host_key(self) -> str:
        where = self._positions.host(self._host.name)
        return dotted((*where.prefix, where.name)) if where else f"appliance.hosts.{self._host.name}"

    def _name(self) -> Iterator[Problem]:
        if not DNS_NAME.accepts(self._host.name):
            where = self._positions.host(self._host.name)
            file, line = (where.file, where.line) if where else (self._source, None)
            message = f"{self._host.name!r} is no name for a host"
            yield Problem(file, line, self._host_key(), "", message, DNS_NAME.expected, GUIDE)

    def _problem(self, variable: str, finding: Finding, documented: str) -> Problem:
        definition = self._positions.find(self._host.name, self._host.groups, variable)
        if definition:
            file = definition.file
            line, key = definition.locate(finding.path)
        else:  # from a script or an INI file, which have no positions, or from a role's default
            file, line, key = self._source, None, dotted((self._host_key(), variable, *finding.path))
        secret = finding.secret or any(
            schema.is_secret_name(step) for step in (variable, *finding.path) if isinstance(step, str)
        )
        value = "" if finding.value is None else _shown(finding.value, secret)
        return Problem(file, line, key, value, finding.message, finding.expected, documented)

    def _variable(self, name: str, value: object) -> Iterator[Problem]:
        option = self._options.get(name)
        documented = option.documented if option else GUIDE
        if name in self._host.undefined:
            message = f"refers to something that is not defined: {self._host.undefined[name]}"
            yield self._problem(name, Finding((), None, message, "names of this inventory or of the roles"), documented)
            return
        for path in schema.clear_secrets(name, value, option):
            finding = Finding(
                path, _MASK, "is a secret in clear text", "!vault with the encrypted value, or the *_file variant", True
            )
            yield self._problem(name, finding, documented)
        if name.startswith(schema.OWN_PREFIX):
            return
        if name == _PODS:
            yield from self._pods(value)
        elif option:
            for finding in schema.check(option, value):
                yield self._problem(name, finding, documented)
            if kind := manifests.OBJECTS.get(name):
                for finding in manifests.check_objects(value, kind):
                    yield self._problem(name, finding, documented)
        elif name in self._connection:
            yield from self._connection_variable(name, value)
        elif name in schema.REMOVED:
            release, instead = schema.REMOVED[name]
            yield self._problem(name, Finding((), value, f"was removed in release {release}", instead), "CHANGELOG.md")
        else:
            yield self._unknown(name)

    def _unknown(self, name: str) -> Problem:
        known = [*self._options, _PODS, *self._connection]
        hint = suggestion(name, known)
        expected = f"a variable of the roles or of Ansible's connections; your own begin with {schema.OWN_PREFIX}"
        message = "is not a variable of any role" + (f"; {hint}" if hint else "")
        return self._problem(name, Finding((), None, message, expected), GUIDE)

    def _connection_variable(self, name: str, value: object) -> Iterator[Problem]:
        if value is UNKNOWN:
            return
        if name in ("ansible_port", "ansible_ssh_port"):
            if not PORT.accepts(value):
                yield self._problem(name, Finding((), value, "has the wrong form", PORT.expected), GUIDE)
        elif name == "ansible_become":
            if not isinstance(value, bool):
                yield self._problem(name, Finding((), value, "is text", "true or false, without quotes"), GUIDE)
        elif isinstance(value, list | Mapping) or value is None:
            message = "has no value" if value is None else "is not a single value"
            yield self._problem(name, Finding((), value, message, "text"), GUIDE)
        elif name in ("ansible_host", "ansible_ssh_host") and not (is_address(value) or DNS_NAME.accepts(value)):
            expected = f"an IPv4 or IPv6 address, or {DNS_NAME.expected}"
            yield self._problem(name, Finding((), value, "has the wrong form", expected), GUIDE)

    def _pods(self, value: object) -> Iterator[Problem]:
        if value is UNKNOWN:
            return
        for finding in manifests.check_pods(value, str(self._value("engine_default_handler"))):
            yield self._problem(_PODS, finding, _PODS_GUIDE)
        if self._value("pods_demo") is True and (place := manifests.place_of(value, manifests.DEMO)):
            message = "is the name of the demo pod too, which pods_demo: true adds"
            finding = Finding(place, manifests.DEMO, message, "another name, or pods_demo: false")
            yield self._problem(_PODS, finding, _PODS_GUIDE)
        for path in manifests.clear_environment(value):
            finding = Finding(path, _MASK, "is a secret in clear text", "!vault with the encrypted value", True)
            yield self._problem(_PODS, finding, _PODS_GUIDE)

    def _value(self, name: str) -> object:
        """The host's value of an option, the role's default where the host has none."""
        option = self._options.get(name)
        return self._host.variables.get(name, option.default if option else None)

    def _ports(self) -> Iterator[Problem]:
        """Two services, or a service and a pod, on one port of this host."""
        taken: dict[tuple[int, str], str] = {}
        for name, option in self._options.items():
            if any(
                not self._value(other) if needed is schema.GIVEN else self._value(other) != needed
                for other, needed in schema.PORT_TAKEN_WITH.get(name, {}).items()
            ):
                continue
            value = self._value(name)
            port = _port(option, value)
            if port:
                holder = taken.setdefault((port, "TCP"), name)
                if holder != name:
                    # The one that the site wrote is the one to change, not a default.
                    blamed, other = (name, holder) if name in self._host.variables else (holder, name)
                    message = f"is the port of {other} on {self._host.name} too"
                    finding = Finding((), value, message, "a port of its own for each service")
                    yield self._problem(blamed, finding, self._options[blamed].documented)
        for path, number, protocol in manifests.host_ports(self._host.variables.get(_PODS)):
            here = dotted((_PODS, *path))
            holder = taken.setdefault((number, protocol), here)
            if holder != here:
                message = f"is the port of {holder} on {self._host.name} too"
                yield self._problem(_PODS, Finding(path, number, message, "a free port of the host"), _PODS_GUIDE)

    def _volumes(self) -> Iterator[Problem]:
        """Volumes of the pool that cannot be as declared, and pods that claim one which is not declared."""
        volumes = self._value("storage_volumes")
        if not isinstance(volumes, list):
            return
        names: list[object] = []
        for number, volume in enumerate(volumes):
            if not isinstance(volume, Mapping):
                return
            documented = self._options["storage_volumes"].documented
            if volume.get("name") in names:
                finding = Finding((number, "name"), volume["name"], "is used more than once", "each volume once")
                yield self._problem("storage_volumes", finding, documented)
            names.append(volume.get("name"))
            for key in ("size", "snapshots"):
                if volume.get(key) and not (self._value("storage_device") or self._value("storage_devices")):
                    message = "needs a pool on a device of its own"
                    finding = Finding((number, key), volume[key], message, f"storage_device, or no {key}")
                    yield self._problem("storage_volumes", finding, documented)
        for path, claim in manifests.claims(self._host.variables.get(_PODS)):
            if claim not in names and UNKNOWN not in names:
                finding = Finding(path, claim, "is no volume of storage_volumes", "the name of one of them")
                yield self._problem(_PODS, finding, _PODS_GUIDE)

    def _networks(self) -> Iterator[Problem]:
        """Networks for pods that would take over the host's own address, or each other's."""
        address = self._host.variables.get("ansible_host")
        networks = [
            (name, ipaddress.ip_network(str(self._value(name))))
            for name, option in self._options.items()
            if option.format in (CIDR, CIDR6) and option.format.accepts(self._value(name))
        ]
        for name, network in networks:
            if is_address(address) and ipaddress.ip_address(str(address)) in network:
                blamed = name if name in self._host.variables else "ansible_host"
                message = f"overlaps: the host's address {address} lies in {name} {network}"
                finding = Finding((), self._value(blamed), message, "a network that is used nowhere else at the site")
                yield self._problem(blamed, finding, self._options[name].documented)


def _same_machine(hosts: Iterable["MergedHost"], positions: Positions, source: str) -> Iterator[Problem]:
    """Two names for one machine would be deployed to at the same time."""
    first: dict[tuple, str] = {}
    for host in hosts:
        values = host.variables
        variable = "ansible_connection" if values.get("ansible_connection") == "local" else "ansible_host"
        if not isinstance(values.get(variable), str):
            continue
        machine = (values[variable], values.get("ansible_port", 22))
        other = first.setdefault(machine, host.name)
        if other == host.name:
            continue
        definition = positions.find(host.name, host.groups, variable)
        yield Problem(
            definition.file if definition else source,
            definition.line if definition else None,
            definition.locate(())[1] if definition else dotted(("appliance.hosts", host.name, variable)),
            _shown(values[variable], False),
            f"host {host.name} is the same machine as host {other}",
            "each machine once",
            GUIDE,
        )


def _same_node(hosts: Iterable["MergedHost"], positions: Positions, source: str) -> Iterator[Problem]:
    """Two hosts that would be one node of one cloud."""
    first: dict[tuple, str] = {}
    for host in hosts:
        values, variable = host.variables, "edge_node_name"
        node = (values.get("edge_cloud_address"), values.get(variable))
        if values.get("edge_provider") != "kubeedge" or not isinstance(node[1], str) or not node[1]:
            continue
        other = first.setdefault(node, host.name)
        if other == host.name:
            continue
        definition = positions.find(host.name, host.groups, variable)
        yield Problem(
            definition.file if definition else source,
            definition.line if definition else None,
            definition.locate(())[1] if definition else dotted(("appliance.hosts", host.name, variable)),
            _shown(node[1], False),
            f"host {host.name} is the same node as host {other}",
            "a name of its own for each node of a cloud",
            edge.DOCUMENTED,
        )


def _port(option: Option, value: object) -> int | None:
    """The port that an option's value takes on the host, if it takes one."""
    if option.format not in (PORT, ENDPOINT) or not option.format.accepts(value):
        return None
    return value if isinstance(value, int) else int(str(value).rpartition(":")[2])


def _shown(value: object, secret: bool) -> str:
    if secret:
        return _MASK
    text = str(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
