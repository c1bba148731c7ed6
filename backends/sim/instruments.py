"""What is traded at the simulated venue: everything about an instrument follows from its name alone."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from marketd import fqme
from marketd.model import Asset, MktPair

BACKEND_NAME = "sim"
VENUE = "spot"
INSTRUMENTS_MAX = 10_000

_PRICES = {
    "btc": 64_000.0, "eth": 3_200.0, "sol": 150.0, "bnb": 580.0, "xrp": 0.55, "doge": 0.14, "ada": 0.45, "avax": 32.0,
    "link": 15.0, "dot": 6.5, "ltc": 82.0, "trx": 0.12, "atom": 8.2, "near": 5.4, "uni": 9.1, "etc": 27.0, "fil": 5.9,
    "apt": 8.6, "arb": 0.98, "op": 2.3, "inj": 24.0, "sui": 1.05, "aave": 92.0, "xlm": 0.105,
}  # fmt: skip
_CONSONANTS = "bdfgklmnprstvz"
_VOWELS = "aeiou"
_NOTIONAL = 1_000.0  # what a typical order is worth


class Traits(NamedTuple):
    """Numbers behind an instrument; prices are ``ticks / price_scale``, sizes ``steps / size_scale``."""

    price: float
    price_digits: int
    size_digits: int

    @property
    def price_scale(self) -> float:
        """Ticks in one unit of price."""
        return float(10**self.price_digits)

    @property
    def size_scale(self) -> float:
        """Steps in one unit of size."""
        return float(10**self.size_digits)

    @property
    def size_steps(self) -> float:
        """Steps of a typical order."""
        return max(1.0, _NOTIONAL / self.price * self.size_scale)


def names_of(instruments: int | Sequence[str]) -> list[str]:
    """Return full names: those given, or the first so many: well-known ones, then made-up ones."""
    if not isinstance(instruments, int):
        return [full_name(name) for name in instruments]
    known = list(_PRICES)[:instruments]
    spelt = (name for name in map(_made_up, itertools.count()) if name not in _PRICES)
    made = list(itertools.islice(spelt, instruments - len(known)))
    return [f"{dst}/usdt.{VENUE}.{BACKEND_NAME}" for dst in known + made]


def full_name(name: str) -> str:
    """Complete ``btc/usdt`` to ``btc/usdt.spot.sim``.

    Raises:
        ValueError: it is no name of an instrument here.
    """
    parsed = fqme.parse(name if "." in name else f"{name}.{VENUE}.{BACKEND_NAME}")
    if (parsed.venue, parsed.suffix, parsed.backend) != (VENUE, "", BACKEND_NAME) or not parsed.src:
        raise ValueError(f"instruments: {name!r} is no name here; dst/src and dst/src.{VENUE}.{BACKEND_NAME} are")
    return str(parsed)


def traits_of(name: str) -> Traits:
    """Derive an instrument's numbers from its full name."""
    price = _PRICES.get(name.partition("/")[0])
    if price is None:
        price = 10.0 ** (key_of(name) / 2**64 * 5 - 2)  # 0.01 to 1000
    digits = 5 - math.floor(math.log10(price))
    size_digits = 3 - math.floor(math.log10(_NOTIONAL / price))
    return Traits(price, min(max(digits, 0), 8), min(max(size_digits, 0), 8))


def market_of(name: str) -> MktPair:
    """Make the instrument of a full name."""
    parsed, traits = fqme.parse(name), traits_of(name)
    return MktPair(
        dst=Asset(parsed.dst, "crypto"),
        src=Asset(parsed.src, "crypto"),
        venue=VENUE,
        backend=BACKEND_NAME,
        type="spot",
        bs_mktid=symbol_of(name),
        price_tick=Decimal(1).scaleb(-traits.price_digits),
        size_tick=Decimal(1).scaleb(-traits.size_digits),
    )


def symbol_of(name: str) -> str:
    """The venue's own name for it: ``btc/usdt``."""
    return name.partition(".")[0]


def key_of(name: str) -> int:
    """A number in ``[0, 2**64)`` that is the name's own, on every machine."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _made_up(number: int) -> str:
    """Spell a number in syllables: two for the first 4,225, then three."""
    text = ""
    while len(text) < 4 or number:
        number, syllable = divmod(number, len(_CONSONANTS) * len(_VOWELS))
        consonant, vowel = divmod(syllable, len(_VOWELS))
        text += _CONSONANTS[consonant] + _VOWELS[vowel]
    return text
