"""Which sockets a service manager has passed."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from marketd.errors import ConfigError
from marketd.gateway.listen import open_listeners
from marketd.supervise.activation import http_addresses, protocol_addresses, take_sockets

PID = 4242


@contextlib.contextmanager
def passed(*sockets: socket.socket) -> Iterator[int]:
    """Put sockets under consecutive numbers, as a service manager does; give the first."""
    first = 700
    for number, sock in enumerate(sockets):
        os.dup2(sock.fileno(), first + number)
    try:
        yield first
    finally:
        for number in range(len(sockets)):
            with contextlib.suppress(OSError):
                os.close(first + number)


def environment(count: object, names: str | None = None, pid: object = PID) -> dict[str, str]:
    env = {"LISTEN_FDS": str(count), "LISTEN_PID": str(pid)}
    return env if names is None else env | {"LISTEN_FDNAMES": names}


def test_sockets_are_known_by_name_and_address(tmp_path: Path) -> None:
    path = str(tmp_path / "md.sock")
    with contextlib.ExitStack() as stack:
        tcp, six, unix = (stack.enter_context(socket.socket(family)) for family in
                          (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX))  # fmt: skip
        tcp.bind(("127.0.0.1", 0))
        six.bind(("::1", 0))
        unix.bind(path)
        for sock in (tcp, six, unix):
            sock.listen()
        first = stack.enter_context(passed(tcp, six, unix))
        env = environment(3, "protocol:http:protocol")
        found = take_sockets(env, PID, first)
        assert not env
        assert protocol_addresses(found) == [f"127.0.0.1:{tcp.getsockname()[1]}", f"unix:{path}"]
        assert http_addresses(found) == [f"[::1]:{six.getsockname()[1]}"]
        assert [sock.descriptor for sock in found] == [first, first + 1, first + 2]
        assert not any(os.get_inheritable(sock.descriptor) for sock in found)


@pytest.mark.parametrize(
    "env",
    [{}, environment(1, pid=PID + 1), environment("two"), environment("-1"), environment(0), {"LISTEN_FDS": "1"}],
)
def test_what_is_not_for_this_process_is_left_alone_and_not_handed_on(env: dict[str, str]) -> None:
    env = dict(env)
    assert take_sockets(env, PID) == []
    assert not env


def test_names_may_be_missing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, passed(sock) as first:
        (found,) = take_sockets(environment(1), PID, first)
        assert found.name in ("", "unknown")
        assert protocol_addresses([found])


def test_what_clients_can_not_connect_to_is_refused() -> None:
    with socket.socket() as idle, passed(idle) as first, pytest.raises(ConfigError, match=r"ListenStream="):
        take_sockets(environment(1, "protocol"), PID, first)
    with socket.socket(type=socket.SOCK_DGRAM) as sock, passed(sock) as first, pytest.raises(ConfigError, match="'x'"):
        take_sockets(environment(1, "x"), PID, first)
    with pytest.raises(ConfigError, match="descriptor 750"):
        take_sockets(environment(1, "nothing"), PID, 750)


def test_inherited_socket_goes_on_listening_after_a_gateway_has_closed_its_own(tmp_path: Path) -> None:
    path = tmp_path / "md.sock"
    with socket.socket(socket.AF_UNIX) as kept:
        kept.bind(str(path))
        kept.listen()
        address = f"unix:{path}"
        for _ in range(2):
            with open_listeners([address], passed={address: os.dup(kept.fileno())}) as listeners:
                assert not listeners[0].getblocking()
            assert path.exists(), "the file is the service manager's"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))  # waits in the queue
