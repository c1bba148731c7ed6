from __future__ import annotations

import socket
from pathlib import Path

import pytest

from marketd.client.address import Address, default_address, parse_address
from marketd.client.trust import token_for, trust_for
from marketd.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:7600", Address("127.0.0.1", 7600)),
        (" localhost:1 ", Address("localhost", 1)),
        ("[::1]:7600", Address("::1", 7600)),
        ("tls://md.example.com:7602", Address("md.example.com", 7602, tls=True)),
        ("tls://[::1]:1", Address("::1", 1, tls=True)),
        ("unix:/run/marketd/marketd.sock", Address(path="/run/marketd/marketd.sock")),
    ],
)
def test_addresses_are_read_and_printed_inversely(text: str, expected: Address) -> None:
    assert parse_address(text) == expected
    assert parse_address(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        ":7600",
        "host:",
        "host:0",
        "host:65536",
        "host:+1",
        "::1:7600",
        "unix:",
        "http://a:1",
        "h:٣",
        "tls://",
        "tls://a",
        "tls://unix:/x",
        "TLS://a:1",
        "tls://tls://a:1",
    ],
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:7600"):
        parse_address(text)


@pytest.mark.parametrize("text", ["ws://host:7680/ws", "wss://host/ws"])
def test_websocket_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="this client speaks no WebSocket"):
        parse_address(text)


def test_the_token_is_the_argument_then_the_environment_then_its_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("mdt_file\n")
    env = {"MARKETD_TOKEN": "mdt_env", "MARKETD_TOKEN_FILE": str(path)}
    assert token_for("mdt_given", env) == "mdt_given"
    assert token_for(None, env) == "mdt_env"
    assert token_for(None, env | {"MARKETD_TOKEN": ""}) == "mdt_file"
    assert token_for(None, {}) is None
    for bad in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match="can't be read"):
            token_for(None, {"MARKETD_TOKEN_FILE": str(bad)})
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is no text"):
        token_for(None, {"MARKETD_TOKEN_FILE": str(path)})


def test_whom_to_trust_matters_with_tls_alone(tmp_path: Path) -> None:
    env = {"MARKETD_CA_FILE": str(tmp_path / "none")}
    assert trust_for(Address("a", 1), None, env) is None
    with pytest.raises(ConfigError, match="ca_file"):
        trust_for(Address("a", 1, tls=True), None, env)
    assert trust_for(Address("a", 1, tls=True), None, {}) is not None


def test_default_is_the_environment_then_the_instances_socket_then_tcp(tmp_path: Path) -> None:
    env = {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    assert default_address(env) == "127.0.0.1:7600"
    path = tmp_path / "marketd" / "default" / "marketd.sock"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert default_address(env) == f"unix:{path}"
    assert default_address(env | {"MARKETD_ADDRESS": "far:1"}) == "far:1"
    assert default_address(env | {"MARKETD_INSTANCE": "other"}) == "127.0.0.1:7600"
