"""A venue's list of instruments: what names and globs mean, and the copy on disk that makes it known at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from marketd.feed.files import replace_file
from marketd.fqme import glob_pattern, is_glob
from marketd.model import MktPair

VERSION = 1


class Resolution(NamedTuple):
    """What names and globs mean now."""

    markets: dict[str, MktPair]  # by FQME
    unknown: list[str]  # the names and globs that mean nothing


class MarketList:
    """The instruments that a venue offers, as far as known.

    Attributes:
        markets: in the venue's order.
        fetched_ns: when the venue was asked; 0: never.
    """

    def __init__(self, markets: Sequence[MktPair] = (), fetched_ns: int = 0) -> None:
        self.markets = list(markets)
        self.fetched_ns = fetched_ns
        self._by_name = {market.fqme: market for market in self.markets}
        self._by_bare_name = {name.replace("/", "", 1): name for name in self._by_name}

    def find(self, name: str) -> MktPair | None:
        """Find an instrument by its name, in any case, with or without the slash."""
        wanted = name.strip().lower()
        return self._by_name.get(wanted) or self._by_name.get(self._by_bare_name.get(wanted, ""))

    def resolve(self, names: Iterable[str]) -> Resolution:
        """Say what names and globs mean."""
        found: dict[str, MktPair] = {}
        unknown = []
        for name in sorted(names):
            markets = self._select(name)
            found |= {market.fqme: market for market in markets}
            if not markets:
                unknown.append(name)
        return Resolution(found, unknown)

    def _select(self, name: str) -> list[MktPair]:
        if is_glob(name):
            match = glob_pattern(name).match
            return [market for fqme, market in self._by_name.items() if match(fqme)]
        market = self.find(name)
        return [market] if market else []


class _Saved(msgspec.Struct, frozen=True):
    version: int
    key: str
    fetched_ns: int
    markets: list[MktPair]


class MarketCache:
    """The list on disk.

    Args:
        path: None keeps nothing.
        key: of what venue the list is; one of another is no use.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path = path
        self._key = key
        self._log = structlog.get_logger("marketd.feed.markets")

    def load(self) -> MarketList | None:
        """Read the list; None where there is none that is of use."""
        if self._path is None:
            return None
        try:
            saved = msgspec.json.decode(self._path.read_bytes(), type=_Saved)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, ValueError) as error:
            self._log.warning("instruments.unreadable", path=str(self._path), error=str(error))
            return None
        if saved.version != VERSION or saved.key != self._key or not saved.markets:
            return None
        return MarketList(saved.markets, saved.fetched_ns)

    async def save(self, markets: MarketList) -> None:
        """Write the list. A full disk is no reason to stop."""
        if self._path is None:
            return
        data = msgspec.json.encode(_Saved(VERSION, self._key, markets.fetched_ns, markets.markets))
        try:
            await replace_file(self._path, data)
        except OSError as error:
            self._log.warning("instruments.unsaved", path=str(self._path), error=str(error))
