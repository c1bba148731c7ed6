import io
import json
import logging
import sys
from datetime import UTC, datetime

import pytest
import structlog

from marketd import logs


@pytest.fixture(autouse=True)
def _own_logging():
    """Leave the next test the logging that it would have had."""
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.level, root.handlers = before[0], before[1]


def _events(capsys):
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_debug_line_shows_at_debug_and_not_at_info(capsys):
    """R07: the level applies in whatever process configures it."""
    log = structlog.get_logger("marketd.feed.sim")
    logs.configure("info", "json", "feed.sim")
    log.debug("feed.detail")
    assert _events(capsys) == []
    logs.configure("debug", "json", "feed.sim")
    log.debug("feed.detail")
    assert [event["event"] for event in _events(capsys)] == ["feed.detail"]


@pytest.mark.parametrize("level", logs.LEVELS)
def test_each_level_shows_itself_and_what_is_above(capsys, level):
    """R07"""
    logs.configure(level, "json", "x")
    log = structlog.get_logger("marketd.x")
    for each in logs.LEVELS:
        getattr(log, each)("event")
    assert [event["level"] for event in _events(capsys)] == list(logs.LEVELS[logs.LEVELS.index(level) :])


def test_a_line_carries_logger_actor_level_time_and_facts(capsys):
    """R07: logger names carry the right sub-package."""
    logs.configure("info", "json", "feed.sim")
    before = datetime.now(UTC)
    structlog.get_logger("marketd.feed.sim").info("feed.started", instruments=200)
    [event] = _events(capsys)
    assert before <= datetime.fromisoformat(event.pop("timestamp")) <= datetime.now(UTC)
    assert event == {
        "event": "feed.started",
        "logger": "marketd.feed.sim",
        "actor": "feed.sim",
        "level": "info",
        "instruments": 200,
    }


def test_libraries_are_heard_from_warning_on_under_their_own_names(capsys):
    logs.configure("debug", "json", "gateway")
    library = logging.getLogger("somelibrary.transport")
    library.info("chatter")
    library.warning("slow by %d s", 3)
    library.log(37, "a level of its own")
    assert [(event["logger"], event["event"], event["level"]) for event in _events(capsys)] == [
        ("somelibrary.transport", "slow by 3 s", "warning"),
        ("somelibrary.transport", "a level of its own", "warning"),
    ]


def test_configuring_twice_does_not_double_lines(capsys):
    logs.configure("info", "json", "a")
    logs.configure("info", "json", "b")
    logging.getLogger("somelibrary").error("once")
    assert [event["actor"] for event in _events(capsys)] == ["b"]


@pytest.mark.parametrize("format", ["json", "console"])
def test_secrets_and_local_variables_never_reach_the_log(capsys, format):
    logs.configure("info", format, "gateway")
    log = structlog.get_logger("marketd.gateway")

    def fail(hidden):
        raise ValueError("no")

    try:
        fail("".join(("open", "sesame")))
    except ValueError:
        log.exception("client.refused", token="opensesame", client="x")
    text = capsys.readouterr().err
    assert "opensesame" not in text
    assert "ValueError: no" in text


def test_what_json_does_not_know_is_shown_and_not_raised(capsys):
    logs.configure("info", "json", "x")
    structlog.get_logger("marketd.x").info("event", path=object, raw=b"\xff", many={1, 2})
    assert "ff" in _events(capsys)[0]["raw"]


def test_console_lines_have_no_colours_when_nobody_looks(capsys):
    logs.configure("info", "console", "x")
    structlog.get_logger("marketd.x").info("event", n=1)
    text = capsys.readouterr().err
    assert "\x1b" not in text
    assert "event" in text
    assert "n=1" in text


def test_auto_is_for_machines_when_standard_error_is_no_terminal(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    assert logs.resolve_format("auto") == "json"
    monkeypatch.setattr(stderr, "isatty", lambda: True)
    assert logs.resolve_format("auto") == "console"
    assert logs.resolve_format("json") == "json"


def test_a_closed_standard_error_does_not_hurt(monkeypatch):
    logs.configure("info", "json", "x")
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    stderr.close()
    structlog.get_logger("marketd.x").info("event")
