from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from marketd.errors import SegmentError
from marketd.model import Asset, MktPair, Quality
from marketd.ring import layout, segment
from marketd.ring.table import SLOT_BYTES, TableReader, TableWriter, create_table

BTC = MktPair(dst=Asset("btc", "crypto"), src=Asset("usdt", "crypto"), venue="spot", backend="sim", type="spot")
ETH = MktPair(dst="eth", src="usdt", venue="spot", backend="sim", price_tick=Decimal("0.10"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_table(tmp_path / "table", 4)
    return tmp_path / "table"


def test_instrument_reads_back_equal(path: Path):
    writer, reader = TableWriter(path), TableReader(path)
    assert (reader.count, reader.markets()) == (0, [])
    assert [writer.add(BTC), writer.add(ETH)] == [1, 2]
    assert (reader.count, reader.markets()) == (2, [BTC, ETH])
    assert str(reader.entry(2).price_tick) == "0.10"
    assert reader.fqme(2) == "eth/usdt.spot.sim"


def test_same_fqme_keeps_its_id_and_generation(path: Path):
    writer, reader = TableWriter(path), TableReader(path)
    writer.add(BTC)
    generation = reader.generation
    assert writer.add(BTC) == 1
    assert (reader.count, reader.generation) == (1, generation)


def test_changed_metadata_is_seen_under_the_same_id(path: Path):
    writer, reader = TableWriter(path), TableReader(path)
    writer.add(BTC)
    writer.add(ETH)
    assert reader.markets() == [BTC, ETH]
    for digits in range(5):
        generation = reader.generation
        changed = msgspec.structs.replace(BTC, price_tick=Decimal(1).scaleb(-digits))
        assert writer.add(changed) == 1
        assert reader.generation > generation
        assert reader.markets() == [changed, ETH]


def test_quality_is_kept_for_each_instrument_and_changes_no_generation(path: Path):
    writer, reader = TableWriter(path), TableReader(path)
    writer.add(BTC)
    writer.add(ETH)
    generation = reader.generation
    assert reader.quality(1) is Quality.UNKNOWN
    writer.set_quality(2, Quality.STALE)
    assert (reader.quality(1), reader.quality(2)) == (Quality.UNKNOWN, Quality.STALE)
    writer.set_quality(0, Quality.OK)
    assert (reader.quality(1), reader.quality(2)) == (Quality.OK, Quality.OK)
    assert reader.generation == generation
    assert reader.markets() == [BTC, ETH]


def test_quality_of_all_leaves_instruments_to_come_alone(path: Path):
    writer, reader = TableWriter(path), TableReader(path)
    writer.add(BTC)
    writer.set_quality(0, Quality.OK)
    writer.add(ETH)
    assert reader.quality(2) is Quality.UNKNOWN


@pytest.mark.parametrize("instrument", [-1, 0, 2])
def test_unknown_id_is_refused(path: Path, instrument: int):
    TableWriter(path).add(BTC)
    reader = TableReader(path)
    for ask in (reader.entry, reader.fqme, reader.quality):
        with pytest.raises(LookupError, match=f"instrument {instrument} is not in the table"):
            ask(instrument)


def test_full_table_is_refused_by_its_configuration_key(path: Path):
    writer = TableWriter(path)
    for n in range(4):
        writer.add(msgspec.structs.replace(ETH, dst=f"coin{n}"))
    with pytest.raises(SegmentError, match=r"btc/usdt\.spot\.sim would be number 5, and ring\.instruments is 4"):
        writer.add(BTC)
    assert writer.add(msgspec.structs.replace(ETH, dst="coin2")) == 3


def test_instrument_too_long_for_a_slot_is_refused_and_takes_no_id(path: Path):
    writer = TableWriter(path)
    with pytest.raises(SegmentError, match="more than the 502 of a slot"):
        writer.add(msgspec.structs.replace(ETH, bs_mktid="x" * 500))
    assert (writer.add(BTC), writer.count) == (1, 1)


def test_successor_knows_what_is_there(path: Path):
    first = TableWriter(path)
    first.add(BTC)
    first.add(ETH)
    with pytest.raises(SegmentError, match="already has a writer"):
        TableWriter(path)
    first.close()
    second = TableWriter(path)
    assert [second.add(ETH), second.add(BTC), second.count] == [2, 1, 2]


def test_writer_that_dies_in_an_update_leaves_the_old_entry(path: Path, monkeypatch: pytest.MonkeyPatch):
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    first, reader = TableWriter(path), TableReader(path)
    first.add(BTC)
    changed = msgspec.structs.replace(BTC, price_tick=Decimal(5))
    monkeypatch.setattr("marketd.ring.table.fence", fence_that(lambda: None, die))
    with pytest.raises(Killed):
        first.add(changed)
    monkeypatch.undo()
    first.close()
    assert reader.markets() == TableReader(path).markets() == [BTC]
    assert TableWriter(path).add(changed) == 1
    assert reader.markets() == [changed]


def test_entry_updated_twice_under_the_readers_copy_is_read_again(path: Path, monkeypatch: pytest.MonkeyPatch):
    writer, reader = TableWriter(path), TableReader(path)
    writer.add(BTC)
    last = msgspec.structs.replace(BTC, price_tick=Decimal(2))

    def update_twice() -> None:
        monkeypatch.undo()
        writer.add(msgspec.structs.replace(BTC, price_tick=Decimal(1)))
        writer.add(last)

    # The fences of a first read: after the generation, before the copy, after the copy.
    monkeypatch.setattr("marketd.ring.table.fence", fence_that(lambda: None, update_twice))
    assert reader.markets() == [last]


def test_damaged_entry_is_named(path: Path):
    TableWriter(path).add(BTC)
    with path.open("r+b") as file:
        file.seek(layout.HEADER_BYTES + SLOT_BYTES // 2 + 20)
        file.write(b"\xc1" * 20)
    with pytest.raises(SegmentError, match=r"instrument 1 in the table .* is damaged"):
        TableReader(path).entry(1)
    with pytest.raises(SegmentError, match="is damaged"):
        TableWriter(path)


def test_segment_that_is_no_table_is_refused(tmp_path: Path):
    segment.create(tmp_path / "other", 8192)
    for attach in (TableReader, TableWriter, TableWriter):
        with pytest.raises(SegmentError, match="not an instrument table of this version"):
            attach(tmp_path / "other")


def fence_that(*actions: Callable[[], None]) -> Callable[[], None]:
    """A fence at whose calls these things happen in turn."""
    waiting = list(actions)
    return lambda: waiting.pop(0)() if waiting else None
