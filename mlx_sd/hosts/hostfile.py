"""The hostfile of MLX's launcher: read by MLX's own reader, after each wrong shape has had one clear line."""

import ipaddress
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import InputError

RING = "ring"
JACCL = ("jaccl", "jaccl-ring")  # over RDMA
BACKENDS = (RING, *JACCL, "mpi", "nccl")  # of MLX's launcher
LOCAL = "127.0.0.1"  # the name of the host on which the launcher starts its rank without ssh
_EXAMPLE = '[{"ssh": "mac-one", "ips": ["192.168.0.1"]}, {"ssh": "mac-two", "ips": ["192.168.0.2"]}]'
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(=.*)?", re.DOTALL)
_LONGEST = 60  # characters of a value in a message
_PORTS = 65535


@dataclass(frozen=True)
class Host:
    """One host: its rank, its name for ssh, and the addresses at which the rank before it reaches it."""

    rank: int
    name: str
    ips: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hostfile:
    """The hosts in the order of their ranks, MLX's back end, and variables of the environment as NAME=VALUE."""

    hosts: tuple[Host, ...]
    backend: str = RING
    variables: tuple[str, ...] = ()

    def addresses(self, first_port: int, connections: int) -> list[list[tuple[str, int]]]:
        """Returns the addresses (ip, port) at which each rank listens, as the launcher numbers the ports of a ring.

        connections: for each ip. Raises InputError where there are more ports than numbers.
        """
        port, addresses = first_port, []
        for host in self.hosts:
            ips = [ip for ip in host.ips for _ in range(connections)]
            addresses.append([(ip, port + i) for i, ip in enumerate(ips)])
            port += len(ips)
        if port - 1 > _PORTS:
            raise InputError(f"the ring needs the ports {first_port} to {port - 1}, and the last port is {_PORTS}")
        return addresses


def read(path: Path, backend: str | None = None) -> Hostfile:
    """Reads a hostfile; backend: replaces the file's. Raises InputError, one line, for whatever is wrong in it."""
    content = _json(path)
    entries, own_backend, variables = _parts(path, content)
    backend = backend or own_backend or RING
    if backend not in BACKENDS:
        raise InputError(f"{path}: there is no back end {_shown(backend)}; there are {', '.join(BACKENDS)}")
    if not entries:
        raise InputError(f"{path} lists no hosts; it is written as {_EXAMPLE}")
    for number, entry in enumerate(entries, start=1):
        _check_entry(f"{path}: host {number}", entry)
    _check_names(path, [entry["ssh"] for entry in entries])
    if backend == RING:
        _check_ring(path, entries)
    elif backend != "mpi" and not entries[0].get("ips"):
        raise InputError(f"{path}: {entries[0]['ssh']} has no ips; with {backend}, the others find each other there")
    if backend in JACCL:
        _check_rdma(path, entries, ring=backend == "jaccl-ring")
    return Hostfile(_hosts(path, entries), backend, tuple(variables))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give the JSON file that mlx.launch --hostfile takes") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise InputError(f"{path} is not usable JSON: it is nested too deeply") from None
    except ValueError as error:  # wrong bytes, wrong syntax, or a number of thousands of digits
        raise InputError(f"{path} is not JSON ({error}); it is written as {_EXAMPLE}") from None


def _parts(path: Path, content: Any) -> tuple[list[Any], str, list[str]]:
    """The hosts, the back end and the variables of a file's JSON, of which each host may still be anything."""
    if isinstance(content, list):
        return content, "", []
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {_shown(content)}, not a list of hosts; it is written as {_EXAMPLE}")
    if not isinstance(content.get("hosts"), list):
        problem = "is not a list" if "hosts" in content else "is missing"
        raise InputError(f'{path}: "hosts" {problem}; it is written as {_EXAMPLE}')
    backend, variables = content.get("backend", ""), content.get("envs", [])
    if not isinstance(backend, str):
        raise InputError(f'{path}: "backend" is {_shown(backend)}; there are {", ".join(BACKENDS)}')
    if not isinstance(variables, list) or not all(isinstance(value, str) for value in variables):
        raise InputError(f'{path}: "envs" is not a list of texts, such as ["OMP_NUM_THREADS=1"]')
    for variable in variables:
        if not _VARIABLE.fullmatch(variable) or "\0" in variable:
            raise InputError(f'{path}: {_shown(variable)} in "envs" is not written as NAME=VALUE')
    return content["hosts"], backend, variables


def _check_entry(where: str, entry: Any) -> None:
    """Raises InputError where one host has no name for ssh, or addresses that are none."""
    if not isinstance(entry, dict):
        raise InputError(f'{where} is {_shown(entry)}, not an object with "ssh" and "ips"')
    name = entry.get("ssh")
    if not isinstance(name, str) or not name:
        problem = f"is {_shown(name)}" if "ssh" in entry else "is missing"
        raise InputError(f'{where}: "ssh", the name of the host for ssh, {problem}')
    if name.startswith("-") or not name.isprintable() or any(letter.isspace() for letter in name):
        raise InputError(f"{where}: {_shown(name)} is no name of a host for ssh")
    ips = entry.get("ips", [])
    if not isinstance(ips, list):
        raise InputError(f'{where}: "ips" is {_shown(ips)}, not a list of addresses')
    for ip in ips:
        _check_ip(f"{where} ({name})", ip)


def _check_ip(where: str, ip: Any) -> None:
    try:
        if not isinstance(ip, str):
            raise ValueError
        address = ipaddress.ip_address(ip)
    except ValueError:
        raise InputError(f'{where}: {_shown(ip)} in "ips" is no IP address; names belong to "ssh"') from None
    if address.version != 4:
        raise InputError(f"{where}: {ip} is an IPv6 address, and MLX joins ranks by IPv4 addresses")
    if address.is_unspecified or address.is_multicast:
        raise InputError(f"{where}: {ip} is the address of no single host")


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Raises InputError where a name is there twice: the two ranks would share a Mac's GPU."""
    if (name := _twice(names)) is not None:
        advice = "; several ranks on this machine alone are started by mlx.launch -n" if name == LOCAL else ""
        raise InputError(f"{path}: {name} is listed twice; a host has one rank{advice}")


def _check_ring(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Raises InputError where the ring's ranks could not reach each other by the addresses in the file."""
    counts = [len(entry.get("ips", ())) for entry in entries]
    for entry, count in zip(entries, counts, strict=True):
        if not count:
            raise InputError(
                f'{path}: {entry["ssh"]} has no ips; the ring needs the address of each host, as "ips": ["192.168.0.1"]'
            )
        if count != counts[0]:
            raise InputError(
                f"{path}: {entry['ssh']} has {count} ips and {entries[0]['ssh']} {counts[0]}; the ring needs as many "
                "of each host"
            )
    if (ip := _twice(ip for entry in entries for ip in entry["ips"])) is not None:
        raise InputError(f"{path}: the address {ip} is there twice; each belongs to one host")


def _check_rdma(path: Path, entries: Sequence[dict[str, Any]], ring: bool) -> None:
    """Raises InputError where the names of RDMA devices do not lead from each host to all others, or around a ring."""
    for i, entry in enumerate(entries):
        name, devices = entry["ssh"], entry.get("rdma", [])
        if not isinstance(devices, list) or len(devices) != len(entries):
            raise InputError(f'{path}: "rdma" of {name} is not a list of {len(entries)} devices, one for each host')
        if devices[i] is not None:
            raise InputError(f'{path}: "rdma" of {name} has {_shown(devices[i])} for {name} itself, not null')
        others = [j for j in range(len(entries)) if j != i]
        for j in [(i - 1) % len(entries), (i + 1) % len(entries)] if ring else others:
            if j != i and not _is_device(devices[j]):
                raise InputError(f'{path}: "rdma" of {name} has no device that leads to {entries[j]["ssh"]}')


def _is_device(value: Any) -> bool:
    """Returns whether a value names a device, or several of one pair of hosts."""
    names = value if isinstance(value, list) and value else [value]
    return all(isinstance(name, str) and name for name in names)


def _hosts(path: Path, entries: Sequence[dict[str, Any]]) -> tuple[Host, ...]:
    """The hosts as MLX's launcher reads them, or from the entries where this MLX has its reader elsewhere."""
    try:
        from mlx._distributed_utils.common import Hostfile as LaunchersHostfile
    except ImportError:
        return tuple(Host(i, entry["ssh"], tuple(entry.get("ips", ()))) for i, entry in enumerate(entries))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves the file open
            hosts = LaunchersHostfile.from_file(path).hosts
    except ValueError as error:
        raise InputError(f"{path}: MLX's launcher cannot read it: {error}") from None
    return tuple(Host(host.rank, host.ssh_hostname, tuple(host.ips)) for host in hosts)


def _twice(values: Iterable[str]) -> str | None:
    """Returns the first value that was there before, or None."""
    before: set[str] = set()
    for value in values:
        if value in before:
            return value
        before.add(value)
    return None


def _shown(value: Any) -> str:
    """Returns a value as short JSON on one line."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
