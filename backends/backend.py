"""The port: what a venue must provide, and the registry by name.

A *source* produces rows for one feed actor. A live venue's source is the connection shell around a sans-I/O
*protocol*; the simulator's makes its own; a replay drives a venue's protocol with recorded bytes. Sources get
everything they touch from outside (sink, clock), so that tests run them without a process, a ring or a wait.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from marketd.clock import Clock
from marketd.model import GapReason, MktPair, Quality
from marketd.ring.layout import Row

if TYPE_CHECKING:
    from backends.live import LiveVenue, TickKind
    from backends.saved import SavedTrades

RowBlock = npt.NDArray[np.void]  # shape (n,), dtype layout.ROW; the cursor field is the writer's to fill in

# A venue's time outside 2009 (the first bitcoin) to 2100 is a mistake, most often of unit.
EVENT_NS_BEGIN = 1_230_768_000_000_000_000
EVENT_NS_END = 4_102_444_800_000_000_000

EXAMPLES_MAX = 8
EXAMPLE_BYTES_MAX = 512


@dataclass
class MessageCounts:
    """Every message a protocol was given, accounted for exactly once."""

    used: dict[str, int] = field(default_factory=dict)  # by type: became rows
    unused: dict[str, int] = field(default_factory=dict)  # by type: recognised, deliberately without rows
    bad: int = 0  # of a known type, and can't be used: malformed, impossible values
    unknown: int = 0  # of no known type
    bad_examples: list[bytes] = field(default_factory=list)  # the first few, for inspection

    def add(self, other: MessageCounts) -> None:
        """Count another connection's messages as well."""
        for mine, theirs in ((self.used, other.used), (self.unused, other.unused)):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count
        self.bad += other.bad
        self.unknown += other.unknown
        self.bad_examples = (self.bad_examples + other.bad_examples)[:EXAMPLES_MAX]

    def note_bad(self, payload: bytes) -> None:
        """Count a message that can't be used; keep the beginnings of the first few."""
        self.bad += 1
        if len(self.bad_examples) < EXAMPLES_MAX:
            self.bad_examples.append(payload[:EXAMPLE_BYTES_MAX])

    def flat(self) -> dict[str, int]:
        """``{"used.aggTrade": 5, "unused.depthUpdate": 7, "bad": 0, "unknown": 0}``."""
        return (
            {f"used.{name}": count for name, count in sorted(self.used.items())}
            | {f"unused.{name}": count for name, count in sorted(self.unused.items())}
            | {"bad": self.bad, "unknown": self.unknown}
        )


class Sink(Protocol):
    """What a source writes through: the way into the feed's ring and instrument table."""

    def instrument(self, market: MktPair) -> int:
        """Return the instrument's row id, from 1; the same for the same name, also after a restart of the feed."""
        ...

    def append(self, row: Row) -> None:
        """Write one row; readers see it at the next :meth:`publish`."""
        ...

    def append_block(self, rows: RowBlock) -> None:
        """Write many rows at once; the block's cursor fields are ignored."""
        ...

    def publish(self) -> None:
        """Let readers see all that was appended, and wake those that sleep."""
        ...

    def gap(self, instrument: int, reason: GapReason, from_ns: int, to_ns: int, lost: int = -1) -> None:
        """Append a gap row: of one instrument, or of all (0). ``lost`` is -1 where nobody knows how many."""
        ...

    def quality(self, instrument: int, quality: Quality) -> None:
        """Set the quality of one instrument, or of all (0)."""
        ...

    def message(self, payload: bytes, received_ns: int) -> None:
        """Show a raw venue message to whoever records this feed; free when nobody does."""
        ...

    @property
    def recording(self) -> bool:
        """Whether anybody wants :meth:`message`: a source that must make up its messages can save itself the work."""
        ...

    @property
    def last_received_ns(self) -> int:
        """``received_ns`` of the newest data row in the ring, 0 in an empty one: where a predecessor stopped."""
        ...


class Source(Protocol):
    """What a feed actor runs."""

    @property
    def url(self) -> str:
        """The address that its messages come from, by which a recording of them finds its protocol again.

        Empty for a source that has no messages to record.
        """
        ...

    def now_ns(self) -> int:
        """The time on this source's clock: a recording's own time in a replay. 0 before there is one."""
        ...

    def search_space(self) -> Sequence[MktPair]:
        """Every instrument that the venue is known to offer, for search; may grow while running."""
        ...

    async def run(self, sink: Sink) -> None:
        """Produce rows until cancelled, or return when there will never be more (a recording's end)."""
        ...

    def begin(self) -> None:
        """Somebody has subscribed. Only a source that waits for that cares."""
        ...

    def outage(self, duration_s: float) -> None:
        """Pretend that the venue is away. Only a simulated one can; others raise ``NotImplementedError``."""
        ...

    def counts(self) -> MessageCounts:
        """What has become of the messages so far."""
        ...

    def quiet(self) -> bool:
        """Whether it knows why nothing comes: the venue is closed or away, nobody wants anything, or its connections
        were found to be in order just now. A source that brings nothing and is not quiet has a fault that it does not
        see."""
        ...


class VenueProtocol(Protocol):
    """Sans-I/O: one connection to a venue. Bytes in, rows and replies out; it never waits and never asks the time."""

    def receive(self, payload: bytes, received_ns: int) -> None:
        """Take one message and append its rows to the sink given at construction. Never raises on a venue's doing."""
        ...

    def data_to_send(self) -> list[bytes]:
        """What must go to the venue now (subscriptions, pongs), each once."""
        ...

    @property
    def counts(self) -> MessageCounts:
        """Every message so far, accounted for."""
        ...


@dataclass(frozen=True)
class Backend:
    """A backend's declaration, the object ``BACKEND`` in its package.

    Attributes:
        config: the struct that decodes the feed's table in the configuration (all its keys but ``backend``).
        open_source: makes the source from that struct; raises ``ConfigError`` when values don't go together.
        open_venues: for a live venue, in place of ``open_source``: makes the venue from that struct, which is then a
            :class:`backends.live.LiveConfig`, and the connection shell is its source. Mostly one; a venue that has
            its streams at several addresses gives one for each, and the first is asked for the instruments.
        kinds: what the connections of a live venue can bring; a feed that is configured for others is refused.
        url_prefixes: websocket addresses of the venue, by which ``replay`` finds the protocol of a recording.
        open_protocol: makes the venue protocol for one recorded connection: ``(url, metadata, sink)``, where
            ``metadata`` maps REST addresses to recorded bodies that were found beside the recording.
        recorded: its sources play what was recorded: their clock is what their rows say, and not the machine's.
        saved_trades: reads the venue's REST answers with trades from a file, which ``replay`` plays like a recording.
    """

    name: str
    description: str
    config: type[msgspec.Struct]
    open_source: Callable[[Any, Clock], Source] | None = None
    open_venues: Callable[[Any], Sequence[LiveVenue]] | None = None
    kinds: tuple[TickKind, ...] = ("trade", "quote")
    url_prefixes: tuple[str, ...] = ()
    open_protocol: Callable[[str, Mapping[str, bytes], Sink], VenueProtocol] | None = None
    recorded: bool = False
    saved_trades: SavedTrades | None = None

    @property
    def live(self) -> bool:
        """Whether a feed of it can be configured, and not only a replay of its recordings."""
        return self.open_source is not None or self.open_venues is not None


NAMES = ("sim", "replay", "binance", "kraken", "kucoin")


def load(name: str) -> Backend:
    """Import a backend's package and return its declaration.

    Raises:
        KeyError: no backend has this name.
    """
    if name not in NAMES:
        raise KeyError(name)
    backend = importlib.import_module(f"backends.{name}").BACKEND
    assert isinstance(backend, Backend), f"backends/{name}/__init__.py must have BACKEND, a Backend"
    return backend
