"""The sockets that clients connect to."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from marketd.errors import ConfigError
from marketd.gateway.listen import address_of, open_listeners, peer_of, prepare


def test_port_zero_takes_a_free_one_and_tells_it() -> None:
    with open_listeners(["127.0.0.1:0", "127.0.0.1:0"]) as listeners:
        addresses = [address_of(listener) for listener in listeners]
        assert len(set(addresses)) == 2
        assert all(a.startswith("127.0.0.1:") and not a.endswith(":0") for a in addresses)


def test_address_in_use_is_said_in_a_sentence() -> None:
    with open_listeners(["127.0.0.1:0"]) as listeners:
        address = address_of(listeners[0])
        with pytest.raises(ConfigError, match=f"can't listen on {address}: Address already in use"):
            open_listeners([address]).__enter__()


@pytest.mark.parametrize("address", ["127.0.0.1:70000", "127.0.0.1:x", "nonsense", "256.0.0.1:1", "unix:" + "/x" * 80])
def test_impossible_address_is_said_in_a_sentence(address: str) -> None:
    with pytest.raises(ConfigError, match=r"can't listen on .* give host:port"):
        open_listeners([address]).__enter__()


def test_unix_socket_is_the_users_own_and_goes_with_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "md.sock"
    with open_listeners([f"unix:{path}"]) as listeners:
        assert address_of(listeners[0]) == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


def test_stale_socket_of_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "md.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    with open_listeners([f"unix:{path}"]), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_socket_of_a_living_daemon_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "md.sock"
    with open_listeners([f"unix:{path}"]):
        with pytest.raises(ConfigError, match="already in use"):
            open_listeners([f"unix:{path}"]).__enter__()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigError):
        open_listeners([f"unix:{path}"]).__enter__()
    assert path.read_text() == "data"


def test_successors_socket_is_not_removed_by_its_predecessor(tmp_path: Path) -> None:
    path = tmp_path / "md.sock"
    with open_listeners([f"unix:{path}"]):
        path.rename(tmp_path / "moved")
        successor = open_listeners([f"unix:{path}"])
        successor.__enter__()
    assert path.exists()
    successor.__exit__(None, None, None)


def test_failure_half_way_leaves_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "md.sock"
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ConfigError):
        open_listeners([f"unix:{path}", "127.0.0.1:x"]).__enter__()
    assert not path.exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_client_is_known_by_its_address_or_its_process(tmp_path: Path) -> None:
    with open_listeners(["127.0.0.1:0", f"unix:{tmp_path / 's'}"]) as (tcp, unix):
        with socket.create_connection(tcp.getsockname()) as client:
            tcp.setblocking(True)
            accepted, _ = tcp.accept()
            with accepted:
                prepare(accepted)
                host, port = client.getsockname()
                assert peer_of(accepted) == f"{host}:{port}"
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(unix.getsockname())
            unix.setblocking(True)
            accepted, _ = unix.accept()
            with accepted:
                prepare(accepted)
                assert peer_of(accepted) == f"unix:pid {os.getpid()}"
