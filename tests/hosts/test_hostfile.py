"""A hostfile is read as MLX's launcher reads it, and every wrong shape has one line that names file and place."""

import json
import sys
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx._distributed_utils import launch
from mlx._distributed_utils.common import Hostfile as LaunchersHostfile

from mlx_sd.core.errors import InputError
from mlx_sd.hosts import hostfile
from mlx_sd.hosts.hostfile import Host

ONE, TWO = {"ssh": "mac-one", "ips": ["10.0.0.1"]}, {"ssh": "mac-two", "ips": ["10.0.0.2"]}
JACCL = [ONE | {"rdma": [None, "rdma_en2"]}, TWO | {"rdma": ["rdma_en2", None]}]


def read(folder, value, backend=None):
    """Reads a hostfile with this text, or this value as JSON."""
    path = folder / "hosts.json"
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return hostfile.read(path, backend)


@pytest.mark.parametrize("wrapped", [False, True])
def test_hosts_have_their_ranks_names_and_addresses(tmp_path, wrapped):
    value = {"backend": "", "envs": ["A=b c", "B"], "hosts": [ONE, TWO]} if wrapped else [ONE, TWO]
    file = read(tmp_path, value)
    assert file.hosts == (Host(0, "mac-one", ("10.0.0.1",)), Host(1, "mac-two", ("10.0.0.2",)))
    assert file.backend == "ring" and file.variables == (("A=b c", "B") if wrapped else ())


def test_it_is_read_without_the_launchers_reader_too(tmp_path, monkeypatch):
    with_it = read(tmp_path, [ONE, TWO])
    monkeypatch.setitem(sys.modules, "mlx._distributed_utils.common", None)
    assert read(tmp_path, [ONE, TWO]) == with_it


def test_back_ends_without_a_ring_need_no_addresses(tmp_path):
    assert read(tmp_path, [{"ssh": "a"}, {"ssh": "b"}], "mpi").hosts == (Host(0, "a"), Host(1, "b"))
    assert read(tmp_path, {"backend": "nccl", "hosts": [ONE, {"ssh": "b"}]}).backend == "nccl"
    assert read(tmp_path, {"backend": "jaccl", "hosts": JACCL}).backend == "jaccl"
    assert read(tmp_path, {"backend": "jaccl", "hosts": [ONE, TWO]}, "ring").backend == "ring"


WRONG = {
    "not JSON": (b"[{]", "is not JSON"),
    "wrong bytes": (b'[{"ssh": "\xff"}]', "is not JSON"),
    "nothing": (b"", "is not JSON"),
    "a long number": (b"[" + b"9" * 5000 + b"]", "is not JSON"),
    "deep": (b"[" * 100_000, "is not usable JSON"),
    "a number": (3, "holds 3, not a list of hosts"),
    "a text": ("mac-one,mac-two", 'holds "mac-one,mac-two", not a list of hosts'),
    "no hosts": ([], "lists no hosts"),
    "another object": ({"nodes": [ONE]}, '"hosts" is missing'),
    "hosts in an object": ({"hosts": {"a": ONE}}, '"hosts" is not a list'),
    "a name alone": (["mac-one", "mac-two"], 'host 1 is "mac-one", not an object'),
    "no ssh": ([ONE, {"ips": ["10.0.0.2"]}], 'host 2: "ssh", the name of the host for ssh, is missing'),
    "an empty name": ([{"ssh": "", "ips": ["10.0.0.2"]}], 'host 1: "ssh", the name of the host for ssh, is ""'),
    "a number as name": ([{"ssh": 7, "ips": ["10.0.0.2"]}], 'host 1: "ssh", the name of the host for ssh, is 7'),
    "an option": ([ONE, TWO | {"ssh": "-oProxyCommand=x"}], '"-oProxyCommand=x" is no name of a host'),
    "two words": ([ONE, TWO | {"ssh": "mac two"}], '"mac two" is no name of a host'),
    "a line break": ([ONE, TWO | {"ssh": "mac\ntwo"}], '"mac\\ntwo" is no name of a host'),
    "a name twice": ([ONE, TWO | {"ssh": "mac-one"}], "mac-one is listed twice; a host has one rank"),
    "this host twice": ([ONE | {"ssh": "127.0.0.1"}, TWO | {"ssh": "127.0.0.1"}], "are started by mlx.launch -n"),
    "no ips": ([ONE, {"ssh": "mac-two"}], "mac-two has no ips; the ring needs the address of each host"),
    "empty ips": ([{"ssh": "mac-one", "ips": []}], "mac-one has no ips"),
    "one ip": ([ONE | {"ips": "10.0.0.1"}], 'host 1: "ips" is "10.0.0.1", not a list'),
    "a name for an ip": ([ONE, TWO | {"ips": ["mac-two.local"]}], '(mac-two): "mac-two.local" in "ips" is no IP'),
    "a number for an ip": ([ONE | {"ips": [167772161]}], '167772161 in "ips" is no IP address'),
    "IPv6": ([ONE | {"ips": ["fe80::1"]}], "fe80::1 is an IPv6 address"),
    "no address": ([ONE | {"ips": ["0.0.0.0"]}], "0.0.0.0 is the address of no single host"),
    "an ip twice": ([ONE, TWO | {"ips": ["10.0.0.1"]}], "the address 10.0.0.1 is there twice"),
    "unequal ips": ([ONE, TWO | {"ips": ["10.0.0.2", "10.0.0.3"]}], "mac-two has 2 ips and mac-one 1; the ring needs"),
    "a back end": ({"backend": "gloo", "hosts": [ONE]}, 'there is no back end "gloo"; there are ring'),
    "a back end of 3": ({"backend": 3, "hosts": [ONE]}, '"backend" is 3; there are ring'),
    "variables": ({"envs": {"A": "b"}, "hosts": [ONE]}, '"envs" is not a list of texts'),
    "a variable": ({"envs": ["A B=c"], "hosts": [ONE]}, '"A B=c" in "envs" is not written as NAME=VALUE'),
    "nobody's ip": ({"backend": "jaccl", "hosts": [{"ssh": "a"}]}, "a has no ips; with jaccl, the others find"),
    "no rdma": ({"backend": "jaccl", "hosts": [ONE, TWO]}, '"rdma" of mac-one is not a list of 2 devices'),
    "rdma to itself": (
        {"backend": "jaccl", "hosts": [ONE | {"rdma": ["rdma_en2", None]}, JACCL[1]]},
        '"rdma" of mac-one has "rdma_en2" for mac-one itself',
    ),
    "a gap": (
        {"backend": "jaccl-ring", "hosts": [ONE | {"rdma": [None, None]}, JACCL[1]]},
        '"rdma" of mac-one has no device that leads to mac-two',
    ),
}


@pytest.mark.parametrize("shape", WRONG)
def test_a_wrong_shape_has_one_line(tmp_path, shape):
    value, message = WRONG[shape]
    with pytest.raises(InputError) as raised:
        read(tmp_path, value)
    text = str(raised.value)
    assert text.startswith(str(tmp_path / "hosts.json")) and message in text
    assert "\n" not in text and len(text) < 400 + len(str(tmp_path))


def test_what_is_no_file_has_one_line(tmp_path):
    with pytest.raises(InputError, match=r"x\.json does not exist"):
        hostfile.read(tmp_path / "x.json")
    with pytest.raises(InputError, match="is a folder; give the JSON file"):
        hostfile.read(tmp_path)


ANYTHING = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.just([]) | st.just({})


@st.composite
def spoilt(draw):
    """A hostfile of one to three hosts, in which up to two values are something else."""
    backend = draw(st.sampled_from(["", "ring", "mpi", "nccl", "jaccl", "jaccl-ring"]))
    count = draw(st.integers(1, 3))
    hosts = [
        {"ssh": f"mac-{i}", "ips": [f"10.0.0.{i}"], "rdma": [None if i == j else "rdma_en2" for j in range(count)]}
        for i in range(count)
    ]
    whole = [hosts if draw(st.booleans()) else {"backend": backend, "envs": ["A=b"], "hosts": hosts}]
    for _ in range(draw(st.integers(0, 2))):
        place = whole
        while True:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if not (isinstance(place[key], list | dict) and place[key]) or draw(st.integers(0, 3)) == 0:
                break
            place = place[key]
        place[key] = draw(ANYTHING | st.sampled_from(["mac-0", "10.0.0.1", "::1", ["10.0.0.1", "10.0.0.2"]]))
    return whole[0]


def check(folder, content):
    """A hostfile is an InputError of one line, or has the hosts that the launcher sees."""
    try:
        file = read(folder, content)
    except InputError as error:
        assert "\n" not in str(error)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        hosts = LaunchersHostfile.from_file(folder / "hosts.json").hosts
    assert [(h.rank, h.name, list(h.ips)) for h in file.hosts] == [(h.rank, h.ssh_hostname, h.ips) for h in hosts]
    assert len({host.name for host in file.hosts}) == len(file.hosts) > 0


@given(spoilt())
def test_any_json_is_an_error_of_one_line_or_what_the_launcher_reads(folder, value):
    check(folder, value)


@given(st.data())
def test_a_damaged_file_is_an_error_of_one_line_or_what_the_launcher_reads(folder, data):
    whole = bytearray(json.dumps({"backend": "ring", "envs": ["A=b"], "hosts": [ONE, TWO]}).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        end = data.draw(st.integers(place, min(len(whole) - 1, place + 8)))
        whole[place:end] = data.draw(st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"]", b",", b"null"]))
    check(folder, bytes(whole))


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(1, 60000))
def test_ports_are_numbered_as_the_launcher_numbers_them(count, ips, connections, port):
    hosts = [Host(i, f"mac-{i}", tuple(f"10.0.{j}.{i + 1}" for j in range(ips))) for i in range(count)]
    launched = []
    options = type("", (), {"starting_port": port, "connections_per_ip": connections, "env": [], "verbose": False})
    options.cwd = options.python = None
    entries = [type("", (), {"ips": host.ips, "ssh_hostname": host.name}) for host in hosts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_launch_with_io", lambda _, arguments, verbose: launched.extend(arguments))
        launch.launch_ring(None, entries, options, ["x"])
    (_, _, _, _, files, *_), _ = launched[0]
    expected = json.loads(files["MLX_HOSTFILE"]) if count > 1 else None
    addresses = hostfile.Hostfile(tuple(hosts)).addresses(port, connections)
    assert expected in (None, [[f"{ip}:{number}" for ip, number in own] for own in addresses])
    assert len({number for own in addresses for _, number in own}) == count * ips * connections


def test_more_ports_than_there_are_is_an_error():
    file = hostfile.Hostfile((Host(0, "a", ("10.0.0.1",)), Host(1, "b", ("10.0.0.2",))))
    assert file.addresses(65534, 1)[1] == [("10.0.0.2", 65535)]
    with pytest.raises(InputError, match="needs the ports 65535 to 65536, and the last port is 65535"):
        file.addresses(65535, 1)
