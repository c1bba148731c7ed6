"""What names and globs mean in a venue's list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from marketd.feed.markets import MarketCache, MarketList
from tests.fake_venue import market

LIST = MarketList([market(symbol) for symbol in ("BTC", "ETH", "SOL")], 1)


def test_name_is_found_in_any_case_with_or_without_the_slash():
    """As people write them."""
    for name in ("btc/usd.spot.fake", "BTC/USD.SPOT.FAKE", " btcusd.spot.fake "):
        found = LIST.find(name)
        assert found is not None
        assert found.fqme == "btc/usd.spot.fake"
    assert LIST.find("usd.spot.fake") is None
    assert LIST.find("") is None


def test_globs_and_names_make_one_set():
    """Each instrument once, whatever selects it; what selects nothing is named."""
    found, unknown = LIST.resolve(["*", "btc/*", "eth/usd.spot.fake", "doge/usd.spot.fake", "x*"])
    assert sorted(found) == ["btc/usd.spot.fake", "eth/usd.spot.fake", "sol/usd.spot.fake"]
    assert unknown == ["doge/usd.spot.fake", "x*"]


@given(st.lists(st.sampled_from(["A", "B", "C", "D"]), unique=True, min_size=1), st.integers(1, 2**62))
async def test_list_on_disk_is_the_list(tmp_path_factory, symbols, fetched_ns):
    """Nothing of the metadata is lost."""
    cache = MarketCache(tmp_path_factory.mktemp("cache") / "deep" / "list.json", "here")
    await cache.save(MarketList([market(symbol) for symbol in symbols], fetched_ns))
    loaded = cache.load()
    assert loaded is not None
    assert loaded.markets == [market(symbol) for symbol in symbols]
    assert loaded.fetched_ns == fetched_ns


async def test_list_of_another_venue_is_no_use(tmp_path):
    """Such as one that was fetched from a test server."""
    path = tmp_path / "list.json"
    await MarketCache(path, "fake http://127.0.0.1:7800").save(LIST)
    assert MarketCache(path, "fake https://api.fake.test").load() is None


async def test_full_disk_is_no_reason_to_stop(tmp_path):
    """The list is in memory."""
    (tmp_path / "file").write_text("")
    await MarketCache(tmp_path / "file" / "list.json", "here").save(LIST)
