from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.fqme import Fqme, glob_pattern, is_glob, parse

TOKEN = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_:$", min_size=1, max_size=8)


@st.composite
def names(draw: st.DrawFn) -> Fqme:
    venue = draw(st.just("") | TOKEN)
    suffix = ".".join(draw(st.lists(TOKEN, max_size=2))) if venue else ""
    return Fqme(draw(TOKEN), draw(st.just("") | TOKEN), venue, suffix, draw(TOKEN))


@given(names())
def test_parsing_and_printing_are_inverse(name: Fqme) -> None:
    assert parse(str(name)) == name
    assert parse(str(name).upper()) == name


@given(names())
def test_a_name_selects_itself_and_star_selects_everything(name: Fqme) -> None:
    assert glob_pattern("*").fullmatch(str(name))
    assert glob_pattern(f"*.{name.backend}").fullmatch(str(name))
    assert not is_glob(str(name))


@pytest.mark.parametrize("text", ["", "btc", "btc/usdt", ".binance", "btc..binance", "btc/.spot.binance", "a b.c.d"])
def test_what_is_no_name_is_refused_with_an_example_or_the_bad_part(text: str) -> None:
    with pytest.raises(ValueError, match=r"btc/usdt\.spot\.binance|part"):
        parse(text)
