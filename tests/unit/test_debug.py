"""What a dump is made of: no secrets, and stacks, also of who hangs. And a wrong clock is said once."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st

from marketd import logs
from marketd.gateway.debug import pack
from marketd.observe.machine import segments, versions
from marketd.observe.redact import hide, is_secret, scrub, secrets_in, shown_environment
from marketd.observe.stacks import own_stacks, prepare, stacks_of
from marketd.rpc.messages import VenueClock
from marketd.supervise.clocks import ClockWatch

SECRET = "s3cr3t-value"


@pytest.mark.parametrize(
    "name", ["token", "api_key", "apiKey", "API-KEY", "client_secret", "password", "passwd", "Authorization", "private"]
)
def test_names_of_secrets_are_known_in_any_spelling(name: str) -> None:
    assert is_secret(name)
    assert hide({"feeds": [{name: SECRET}]}) == {"feeds": [{name: "***"}]}
    assert list(secrets_in({"a": [{name: {"nested": SECRET}}]})) == [SECRET]


def test_what_is_no_secret_stays_as_it_is() -> None:
    table = {"instance": "eu", "feeds": {"kraken": {"ws_url": "wss://ws.kraken.com/v2?depth=10", "kinds": ["trade"]}}}
    assert hide(table) == table
    assert list(secrets_in(table)) == []
    assert hide({"token": "", "password": None}) == {"token": "", "password": None}


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"https://me:{SECRET}@host/x", "https://***@host/x"),
        (f"wss://{SECRET}@host", "wss://***@host"),
        (f"https://host/?a=1&api_key={SECRET}&b=2", "https://host/?a=1&api_key=***&b=2"),
        (f"ws://host?token={SECRET}", "ws://host?token=***"),
    ],
)
def test_credentials_in_addresses_are_found_by_their_place(address: str, shown: str) -> None:
    assert hide({"url": address}) == {"url": shown}
    secrets = list(secrets_in({"url": address}))
    assert SECRET in secrets
    assert SECRET not in scrub(f"feed.failed {address} and again: {SECRET}", secrets)


@given(st.text(min_size=4, max_size=30), st.text(max_size=50), st.text(max_size=50))
def test_known_secret_is_nowhere_in_a_scrubbed_text(secret: str, before: str, after: str) -> None:
    scrubbed = scrub(before + secret + after, [secret])
    assert secret not in scrubbed or secret in "***"


def test_only_harmless_variables_are_shown() -> None:
    shown = shown_environment(
        {
            "PATH": "/bin",
            "MARKETD_CONFIG": "/x",
            "MARKETD_API_TOKEN": SECRET,
            "LS_COLORS": SECRET,
            "LC_ALL": "C",
            "XDG_X": f"http://u:{SECRET}@h",
        }
    )
    assert shown == {
        "PATH": "/bin", "MARKETD_CONFIG": "/x", "MARKETD_API_TOKEN": "(not shown)", "LS_COLORS": "(not shown)",
        "LC_ALL": "C", "XDG_X": "http://***@h",
    }  # fmt: skip


async def test_stacks_show_where_each_task_waits(nursery: trio.Nursery) -> None:
    async def wait_for_rain() -> None:
        await trio.sleep_forever()

    nursery.start_soon(wait_for_rain)
    await trio.testing.wait_all_tasks_blocked()
    told = own_stacks()
    assert "wait_for_rain: await trio.sleep_forever()" in told
    assert "task <init>" in told
    assert "thread MainThread" in told


def test_hanging_process_tells_its_stacks_without_its_event_loop() -> None:
    script = "from marketd.observe.stacks import prepare; prepare(); import time\ndef hang():\n  print(flush=True)\n  time.sleep(600)\nhang()"  # noqa: E501
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            for _ in range(2):  # and again: only what is new is told
                told = stacks_of(process.pid)
                assert told.count("in hang") == 1
                assert "State:" in told
        finally:
            process.kill()
    with pytest.raises(OSError, match=str(process.pid)):
        stacks_of(process.pid)


def test_process_that_has_not_prepared_is_left_alone() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"], stdout=-1
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert "has not prepared" in stacks_of(process.pid)
            assert process.poll() is None, "the signal would have ended it"
        finally:
            process.kill()


def test_preparing_twice_does_no_harm() -> None:
    prepare()
    prepare()
    assert "test_preparing_twice" in stacks_of(os.getpid())


def test_last_log_lines_are_kept_and_no_more_than_so_many(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "console", "test")
    log = structlog.get_logger("marketd.test")
    for number in range(logs.RECENT_LINES + 5):
        log.info("counted", number=number, token=SECRET)
    log.info("long", text="x" * 10_000)
    kept = logs.recent()
    capsys.readouterr()
    assert len(kept) == logs.RECENT_LINES
    assert "number=6" in kept[0]
    assert len(kept[-1]) == logs.LINE_MAX
    assert SECRET not in "".join(kept)
    assert "\x1b" not in "".join(kept)


def test_archive_is_readable_by_its_owner_alone() -> None:
    packed = pack("marketd-x", {"a/b.txt": "täxt", "c.json": "{}"}, 1_790_000_000)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = archive.getmembers()
        assert [(each.name, each.mode, each.mtime) for each in members] == [
            ("marketd-x/a/b.txt", 0o600, 1_790_000_000),
            ("marketd-x/c.json", 0o600, 1_790_000_000),
        ]
        file = archive.extractfile(members[0])
        assert file is not None
        assert file.read().decode() == "täxt"


def test_versions_and_segments_are_told_whatever_is_wrong_with_them(tmp_path) -> None:
    assert versions()["msgspec"]
    (tmp_path / "x.ring").write_bytes(b"nonsense")
    (tmp_path / "x.bells").write_bytes(b"1")
    found = segments([tmp_path / "x.ring", tmp_path / "x.bells", tmp_path / "gone.ring"])
    assert found["x.bells"]["bytes"] == 1
    assert "error" in found["x.ring"]
    assert "error" in found["gone.ring"]
    assert json.dumps(found)


def test_skew_is_logged_when_it_comes_and_when_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json", "test")
    watch, wrong = ClockWatch(), VenueClock(2000.0, 10.0, "server_time", 2010.0, 1.0)
    for clock in (VenueClock(), wrong, wrong, VenueClock(3.0, 10.0, "server_time", 5.0, 1.0), VenueClock()):
        watch.look({"a": clock, "b": None})
        status = watch.status(3)
        assert (status.skewed, status.jumps) == (clock is wrong, 3)
        if status.skewed:
            assert status.detail.startswith("this machine's clock is 2.000 s ahead of that of a: ")
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == ["clock.skewed", "clock.right"]
