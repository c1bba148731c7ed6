from __future__ import annotations

import io
from decimal import Decimal

import pytest
from rich.console import Console
from rich.table import Table

from marketd.cli import backends, instrument
from marketd.model import Asset, MktPair
from marketd.rpc.messages import BackendInfo, InstrumentResult

MARKET = MktPair(
    dst=Asset("btc", "crypto"),
    src="usdt",
    venue="perp",
    backend="binance",
    type="perpetual",
    bs_mktid="BTCUSDT",
    price_tick=Decimal("1E-1"),
    size_tick=Decimal("0.001"),
)


def text(table: Table) -> str:
    output = io.StringIO()
    Console(file=output, width=120).print(table)
    return output.getvalue()


def test_instrument_shows_its_ticks_in_plain_digits_and_the_venues_own_id() -> None:
    shown = text(instrument.render(InstrumentResult("btc/usdt.perp.binance", "um", 3, 7, "ok", MARKET)))
    for part in ("btc/usdt.perp.binance", "btc (crypto)", "usdt", "0.1", "0.001", "BTCUSDT", "um, row id 3", "ok"):
        assert part in shown
    assert "expiry" not in shown


def test_backends_shows_which_feeds_run_each() -> None:
    shown = text(backends.render([BackendInfo("sim", "a simulated venue", ["a", "b"]), BackendInfo("x", "y", [])]))
    assert "a, b" in shown
    assert "a simulated venue" in shown


def test_check_shows_every_problem_of_every_backend() -> None:
    shown = text(backends.render_check({"sim": [], "bad": ["no description", "no protocol"]}))
    assert shown.index("ok") < shown.index("has problems")
    assert "no description" in shown
    assert "no protocol" in shown


def test_this_installs_backends_are_whole() -> None:
    report = backends.validate_all()
    assert len(report) >= 3
    assert not any(report.values()), report


@pytest.mark.parametrize("problems", [{"sim": []}, {"sim": ["broken"]}])
def test_check_ends_with_1_when_a_backend_has_problems(
    problems: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from marketd.cli.app import app

    monkeypatch.setattr(backends, "validate_all", lambda: problems)
    assert CliRunner().invoke(app, ["backends", "--check", "--json"]).exit_code == (1 if problems["sim"] else 0)
