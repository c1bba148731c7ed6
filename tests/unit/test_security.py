"""Who may do what: scopes, tokens and their file, patterns, quotas, doors, certificates, the audit log."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import msgspec
import pytest
import structlog

from marketd.errors import ConfigError
from marketd.gateway.guard import Guard
from marketd.gateway.selection import Selections
from marketd.rpc.messages import METHODS
from marketd.security import scopes, tokens
from marketd.security.access import Access
from marketd.security.audit import append, entry_of
from marketd.security.certificates import make_certificate
from marketd.security.doors import demands_token, door_of, with_tls
from marketd.security.quotas import DAY_NS, Bucket, Usage
from marketd.security.server_tls import Certificate, server_context
from marketd.security.tokens import Quotas, Token
from marketd.supervise.messages import SecuritySpec
from marketd.web.app import ROUTES

SECOND_NS = 10**9


def token(name: str = "alice", text: str = "", **facts: object) -> Token:
    table = {"name": name, "sha256": tokens.hash_of(text or name), "scopes": ["read"]} | facts
    return msgspec.convert(table, Token)


# --- scopes ---


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_scope(method: str) -> None:
    assert scopes.scope_of(method) in (None, *scopes.SCOPES)


def test_what_is_open_to_everybody_is_hello_and_ping_alone() -> None:
    assert {method for method in METHODS if scopes.scope_of(method) is None} == {"hello", "ping"}


def test_the_operators_methods_want_admin() -> None:
    for method in ("backfill", "record", "reload", "log.level", "services.restart", "clients.kick", "store.trim"):
        assert scopes.scope_of(method) == "admin"


@pytest.mark.parametrize("method", ["", "statu", "status.x", "Status", "hello.x", "brand.new"])
def test_a_method_that_nobody_has_listed_is_nobodys(method: str) -> None:
    with pytest.raises(scopes.Unlisted):
        scopes.scope_of(method)


def test_every_path_of_http_has_a_scope_or_is_said_to_be_open() -> None:
    paths = [getattr(route, "path", "").replace("{fqme:path}", "x") for route in ROUTES]
    for path in paths:
        scopes.scope_of_path(path)
    assert {path for path in paths if scopes.scope_of_path(path) is None} == {"/healthz", "/readyz", "/ws", "/client"}
    with pytest.raises(scopes.Unlisted):
        scopes.scope_of_path("/metricsx")


@pytest.mark.parametrize(
    ("has", "may"), [(["read"], {"read"}), (["history"], {"history"}), (["admin"], {"read", "history", "admin"})]
)
def test_a_token_may_what_its_scopes_say_and_admin_includes_the_others(has: list[str], may: set[str]) -> None:
    access = Access(token(scopes=has))
    assert {scope for scope in scopes.SCOPES if access.may(scope)} == may
    assert access.may(None)


# --- patterns ---


def test_names_and_globs_bound_what_may_be_seen_in_any_case() -> None:
    access = Access(token(instruments=["*/usdt.spot.binance", "XBT/usd.spot.kraken", "a.b"]))
    for name in ("btc/usdt.spot.binance", "BTC/USDT.spot.binance ", "xbt/usd.spot.kraken", "a.b"):
        assert access.permits(name), name
    for name in ("btc/usdt.spot.binance2", "btc/usd.spot.binance", "eth/usd.spot.kraken", "", "axb", "xa.b", "a.b\n.c"):
        assert not access.permits(name), name
    assert Access(token()).permits("anything at all")


def test_a_glob_of_a_subscription_means_only_what_the_token_permits() -> None:
    selections = Selections()
    bounded = selections.intern([], ["*"], [1], frozenset({"i1/*"}))
    assert bounded.selects("i1/usd.sim")
    assert not bounded.selects("i2/usd.sim")
    assert selections.intern([], ["*"], [1]) is not bounded
    assert selections.intern(["i2/usd.sim"], [], [1], frozenset({"i1/*"})).selects("i2/usd.sim") is False


def test_admin_goes_with_no_patterns() -> None:
    with pytest.raises(msgspec.ValidationError, match="admin goes with no instrument patterns"):
        token(scopes=["admin"], instruments=["*.binance"])


# --- tokens ---


def test_tokens_are_random_and_only_their_hash_is_kept(tmp_path: Path) -> None:
    made = {tokens.new_token() for _ in range(100)}
    assert len(made) == 100
    text = made.pop()
    assert len(text) >= 43
    path = tmp_path / "tokens.json"
    tokens.save(path, [token(text=text)])
    assert text not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    [found] = tokens.load(path) or []
    assert tokens.find([found], text) == found
    for wrong in (text[:-1], text + "x", text.upper(), "", found.sha256, "x" * 10_000, "\udc80"):
        assert tokens.find([found], wrong) is None


def test_replacing_the_file_leaves_nothing_else_behind(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    for count in (1, 2, 3):
        tokens.save(path, [token(f"t{number}") for number in range(count)])
    assert [each.name for each in tmp_path.iterdir()] == ["tokens.json"]
    assert len(tokens.load(path) or []) == 3


def test_no_file_is_not_the_same_as_no_tokens(tmp_path: Path) -> None:
    assert tokens.load(tmp_path / "tokens.json") is None
    tokens.save(tmp_path / "tokens.json", [])
    assert tokens.load(tmp_path / "tokens.json") == []


GOOD = {"version": 1, "tokens": [{"name": "a", "sha256": "0" * 64, "scopes": ["read"]}]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is no file of tokens"),
        ("{", "is no file of tokens"),
        ("\x00\xff", "is no file of tokens"),
        (json.dumps(GOOD)[:-5], "is no file of tokens"),
        (json.dumps(GOOD | {"more": 1}), "unknown field"),
        (json.dumps(GOOD | {"version": 2}), "version 2"),
        (json.dumps(GOOD | {"tokens": GOOD["tokens"] * 2}), "more than one token called a"),
        (json.dumps(GOOD).replace("read", "root"), "is no file of tokens"),
        (json.dumps(GOOD).replace('["read"]', "[]"), "is no file of tokens"),
        (json.dumps(GOOD).replace("00", "zz", 1), "is no file of tokens"),
        (json.dumps(GOOD).replace('"a"', '"a\\n"'), "is no file of tokens"),
    ],
)
def test_a_file_that_was_tampered_with_is_refused_with_what_to_do(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(text, "latin1")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=sentence) as caught:
        tokens.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_a_file_that_others_can_read_or_write_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    tokens.save(path, [token()])
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        tokens.load(path)


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        tokens.load(tmp_path)


def test_a_token_expires_at_its_time() -> None:
    assert not token().expired(2**62)
    assert not token(expires_ns=5).expired(4)
    assert token(expires_ns=5).expired(5)


# --- quotas ---


def test_a_bucket_lets_a_seconds_worth_through_at_once_and_then_its_rate() -> None:
    bucket = Bucket(4.0)
    assert [bucket.take(100.0) for _ in range(5)] == [0, 0, 0, 0, 0.25]
    assert bucket.take(100.2) == pytest.approx(0.05)
    assert bucket.take(100.3) == 0
    assert bucket.take(99.0) > 0  # a clock that goes back fills nothing
    assert [bucket.take(1e9) for _ in range(5)] == [0, 0, 0, 0, 0.25]


def test_a_slow_bucket_still_lets_one_through() -> None:
    bucket = Bucket(0.1)
    assert bucket.take(0.0) == 0
    assert bucket.take(5.0) == pytest.approx(5.0)
    assert bucket.take(10.0) == 0
    assert all(Bucket(0.0).take(0.0) == 0 for _ in range(1000))


def test_bytes_are_counted_from_midnight_to_midnight() -> None:
    usage = Usage(Quotas(bytes_per_day=100))
    usage.add_bytes(99, DAY_NS + 1)
    assert not usage.spent(DAY_NS + 2)
    usage.add_bytes(1, DAY_NS + 3)
    assert usage.spent(2 * DAY_NS - 1)
    assert not usage.spent(2 * DAY_NS)
    assert not Usage().spent(0)


def test_room_for_connections_and_subscriptions_ends_at_the_quota() -> None:
    usage = Usage(Quotas(connections=1, subscriptions=2))
    assert usage.room_for_connection
    usage.connections = 1
    assert not usage.room_for_connection
    usage.subscriptions = 1
    assert usage.room_for_subscription
    usage.subscriptions = 2
    assert not usage.room_for_subscription
    free = Usage()
    free.connections = free.subscriptions = 10**6
    assert free.room_for_connection
    assert free.room_for_subscription


# --- doors ---


@pytest.mark.parametrize(
    ("address", "door"),
    [
        ("unix:/run/x", "unix"),
        ("127.0.0.1:7600", "loopback"),
        ("[::1]:0", "loopback"),
        ("localhost:1", "loopback"),
        ("tls://127.0.0.1:1", "loopback"),
        ("0.0.0.0:7600", "open"),
        ("[::]:7600", "open"),
        ("tls://10.0.0.1:1", "open"),
        ("example.com:1", "open"),
    ],
)
def test_the_kind_of_door_is_told_by_the_address(address: str, door: str) -> None:
    assert door_of(address) == door


def test_who_needs_a_token_where() -> None:
    def demanded(*, defined: bool = False, required: bool = False) -> set[str]:
        doors = ("unix", "loopback", "open")
        return {door for door in doors if demands_token(door, defined=defined, required=required)}

    assert demanded() == {"open"}
    assert demanded(defined=True) == {"open", "loopback"}
    assert demanded(required=True) == {"open", "loopback", "unix"}


def test_other_machines_get_tls_unless_told_otherwise() -> None:
    assert with_tls("0.0.0.0:1", plaintext=False) == "tls://0.0.0.0:1"
    assert with_tls("0.0.0.0:1", plaintext=True) == "0.0.0.0:1"
    assert with_tls("tls://0.0.0.0:1", plaintext=True) == "tls://0.0.0.0:1"
    assert with_tls("127.0.0.1:1", plaintext=False) == "127.0.0.1:1"
    assert with_tls("unix:/x", plaintext=False) == "unix:/x"


# --- certificates ---


def test_a_made_certificate_serves_and_is_renewed_by_the_same_authority(tmp_path: Path) -> None:
    files = make_certificate(tmp_path / "tls", ["localhost", "127.0.0.1", "*.example.com"], 30)
    for key in (files.key, files.authority_key):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    authority = files.authority.read_bytes()
    served = Certificate(str(files.certificate), str(files.key))
    first = served.context
    assert not served.refresh()
    assert make_certificate(tmp_path / "tls", ["localhost"], 30) == files
    assert files.authority.read_bytes() == authority
    assert served.refresh()
    assert served.context is not first


@pytest.mark.parametrize(("days", "warns"), [(13, True), (16, False)])
def test_a_certificate_that_expires_soon_is_told_once_a_day(tmp_path: Path, days: int, *, warns: bool) -> None:
    files = make_certificate(tmp_path, ["localhost"], days)
    guard = Guard(SecuritySpec(certificate=str(files.certificate), key=str(files.key)))
    now_ns = time.time_ns()
    with structlog.testing.capture_logs() as logs:
        for hours in (0, 1, 23, 25):
            guard.warn_of_expiry(now_ns + hours * 3600 * SECOND_NS)
    told = [entry["in_days"] for entry in logs if entry["event"] == "security.certificate_expires"]
    assert told == ([pytest.approx(days, abs=0.2), pytest.approx(days - 1, abs=0.2)] if warns else [])
    make_certificate(tmp_path, ["localhost"], 100)
    guard.reload()
    with structlog.testing.capture_logs() as logs:
        guard.warn_of_expiry(now_ns + 50 * 3600 * SECOND_NS)
    assert logs == []


@pytest.mark.parametrize("name", ["", "a b", "http://x", "x/y", "x:1", "-", "ä.example", "a" * 300])
def test_names_that_no_machine_has_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a name of a machine nor an IP address"):
        make_certificate(tmp_path, [name], 30)
    assert list(tmp_path.iterdir()) == []


def test_half_an_authority_is_refused(tmp_path: Path) -> None:
    files = make_certificate(tmp_path, ["localhost"], 30)
    files.authority_key.unlink()
    with pytest.raises(ConfigError, match=r"ca-key\.pem is missing"):
        make_certificate(tmp_path, ["localhost"], 30)
    files.authority_key.write_bytes(files.key.read_bytes())
    with pytest.raises(ConfigError, match="do not belong together"):
        make_certificate(tmp_path, ["localhost"], 30)


def test_files_that_are_no_certificate_are_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    mine, other = make_certificate(tmp_path / "a", ["localhost"], 30), make_certificate(tmp_path / "b", ["x"], 30)
    with pytest.raises(ConfigError, match="can't be read"):
        server_context(str(tmp_path / "none"), str(mine.key))
    with pytest.raises(ConfigError, match="belong together"):
        server_context(str(mine.certificate), str(other.key))
    served = Certificate(str(mine.certificate), str(mine.key))
    old = served.context
    mine.certificate.write_text("nonsense")
    with pytest.raises(ConfigError, match=r"security\.certificate"):
        served.refresh()
    assert served.context is old
    assert not served.refresh()  # said once
    mine.certificate.write_bytes(other.certificate.read_bytes())
    with pytest.raises(ConfigError, match="belong together"):
        served.refresh()
    mine.key.write_bytes(other.key.read_bytes())
    assert served.refresh()


# --- the audit log ---


def test_the_audit_log_is_a_private_file_of_lines_that_only_grows(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    for number in range(3):
        append(path, entry_of("record", token="ops", peer="unix:pid 1", result="done", detail={"number": number}))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["detail"]["number"] for line in lines] == [0, 1, 2]
    assert lines[0]["action"] == "record"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    append(path, entry_of("x" * 1000, token="", peer="", result="done", detail="y" * 10_000))
    assert len(path.read_text().splitlines()[-1]) < 500


def test_the_audit_log_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "audit.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        append(tmp_path / "audit.log", entry_of("record", token="", peer="", result="done"))
    assert not (tmp_path / "elsewhere").exists()
