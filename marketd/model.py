"""The nouns: assets, instruments and what can happen to them. No behaviour beyond printing and rounding.

Everything here crosses process and network boundaries as MessagePack; ``Decimal`` travels as text, so a tick of
``0.10`` stays ``0.10``.
"""

from __future__ import annotations

import enum
from decimal import Decimal
from typing import Literal, get_args

import msgspec

from marketd.fqme import Fqme

AssetType = Literal["crypto", "fiat", "stock", "commodity", "index", "fund", "bond", "contract", "unknown"]
InstrumentType = Literal["spot", "perpetual", "future", "option", "stock", "fx", "index", "fund", "unknown"]


_WHOLE_LOTS = ("stock", "future", "option", "fund")
_BY_TYPE = Decimal("NaN")  # in place of a default that depends on another field


class Kind(enum.IntEnum):
    """What a row in a tick ring says."""

    TRADE = 1
    QUOTE = 2
    LEVEL = 3
    GAP = 4
    STATUS = 5


RECORDED_KINDS = {"trade": Kind.TRADE, "quote": Kind.QUOTE}  # of ticks, those that are stored


class Side(enum.IntEnum):
    """The taker's side of a trade."""

    SELL = -1
    UNKNOWN = 0
    BUY = 1


class Flag(enum.IntFlag):
    """Where a row came from and how it belongs to its neighbours."""

    LAST = 1  # the last row of one venue event
    SNAPSHOT = 2
    BACKFILLED = 4
    REVISED = 8
    SYNTHETIC = 16


class GapReason(enum.IntEnum):
    """Why rows are missing."""

    DISCONNECT = 1
    SEQUENCE = 2
    CHECKSUM = 3
    LAPPED = 4
    STALE = 5
    MAINTENANCE = 6
    RESTART = 7
    MALFORMED = 8
    EPOCH = 9  # the ring was made anew: the cursors that were held mean nothing any more


class Quality(enum.IntEnum):
    """What the feed knows about an instrument's data right now."""

    UNKNOWN = 0
    OK = 1
    STALE = 2
    GAP = 3
    RESYNCING = 4
    CLOSED = 5


class Asset(msgspec.Struct, frozen=True):
    """A thing that is traded or paid with. ``precision`` is the smallest amount that can be moved."""

    name: str
    type: str = "unknown"
    precision: Decimal = Decimal("1E-8")

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("an asset needs a name")
        if self.type not in get_args(AssetType):
            raise ValueError(f"asset type {self.type!r} is not one of {', '.join(get_args(AssetType))}")


class MktPair(msgspec.Struct, frozen=True, kw_only=True):
    """An instrument: what is traded (``dst``), what it is paid with (``src``), where, and in which steps.

    ``bs_mktid`` is the venue's own id for it and always text. Prices are multiples of ``price_tick``, sizes of
    ``size_tick``. Where that is not given, it is 1 for what is traded in whole lots, as stocks and futures are: some
    venues name fractions that they then refuse. For all else it is 1E-8.
    """

    dst: Asset | str
    src: Asset | str = ""
    venue: str = ""
    suffix: str = ""
    backend: str
    type: str = "unknown"
    bs_mktid: str = ""
    price_tick: Decimal = Decimal("0.01")
    size_tick: Decimal = _BY_TYPE
    lot_size: Decimal = Decimal(1)
    contract_size: Decimal = Decimal(1)
    expiry: str = ""
    calendar: str = "24/7"

    def __post_init__(self) -> None:
        if isinstance(self.dst, Asset) is False and isinstance(self.src, Asset):
            raise ValueError("src is an Asset but dst is only a name: give the Asset for dst too")
        if self.type not in get_args(InstrumentType):
            raise ValueError(f"instrument type {self.type!r} is not one of {', '.join(get_args(InstrumentType))}")
        if self.size_tick is _BY_TYPE:
            msgspec.structs.force_setattr(
                self, "size_tick", Decimal(1) if self.type in _WHOLE_LOTS else Decimal("1E-8")
            )
        for name in ("price_tick", "size_tick", "lot_size", "contract_size"):
            step = getattr(self, name)
            if not isinstance(step, Decimal) or not step.is_finite() or step <= 0:
                raise ValueError(f"{name} is {step!r}: it must be a Decimal greater than 0")

    @property
    def pair(self) -> str:
        """``btc/usdt``; the asset alone where nothing says what it is paid with."""
        src = _name(self.src)
        return f"{_name(self.dst)}/{src}" if src else _name(self.dst)

    @property
    def fqme(self) -> str:
        """The instrument's id: ``dst/src.venue[.suffix].backend``, lower case."""
        return str(Fqme(_name(self.dst), _name(self.src), self.venue, self.suffix, self.backend))

    @property
    def resolved(self) -> bool:
        """Whether ``dst`` is a known asset, or only a name read from a symbol."""
        return isinstance(self.dst, Asset)

    @property
    def price_digits(self) -> int:
        """Digits after the point that a price needs."""
        return _digits(self.price_tick)

    @property
    def size_digits(self) -> int:
        """Digits after the point that a size needs."""
        return _digits(self.size_tick)

    def quantize_price(self, price: Decimal | float | str) -> Decimal:
        """Round to the nearest multiple of ``price_tick``."""
        return _quantize(price, self.price_tick)

    def quantize_size(self, size: Decimal | float | str) -> Decimal:
        """Round to the nearest multiple of ``size_tick``."""
        return _quantize(size, self.size_tick)


def _name(asset: Asset | str) -> str:
    return asset.name if isinstance(asset, Asset) else asset


def _digits(step: Decimal) -> int:
    exponent = step.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return max(0, -exponent)


def _quantize(value: Decimal | float | str, step: Decimal) -> Decimal:
    # A float goes through its shortest text: 0.1 means 0.1 and not 0.1000000000000000055.
    number = value if isinstance(value, Decimal) else Decimal(str(value))
    return ((number / step).quantize(Decimal(1)) * step).normalize() + Decimal(0)
