"""The replay source: recorded bytes in, the venue protocol's rows out, timed by the recording."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import trio

from backends import recording
from backends.backend import NAMES, Backend, MessageCounts, Sink, VenueProtocol, load
from backends.recording import Entry, RecordingReader
from backends.replay.gate import Gate
from marketd.clock import Clock, RecordingClock
from marketd.errors import RecordingError
from marketd.model import GapReason, MktPair, Quality

BATCH_MESSAGES = 128  # between two turns of the event loop when there is no time to wait for


class ReplayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A replay feed's table.

    Attributes:
        files: recordings; several are merged by time.
        speed: how many recorded seconds pass in one of ours, or ``max``: as fast as the machine can.
        wait_client: begin at the first subscription and not at once.
    """

    files: Annotated[list[str], msgspec.Meta(min_length=1)]
    speed: Annotated[float, msgspec.Meta(gt=0)] | Literal["max"] = 1.0
    wait_client: bool = False

    def __post_init__(self) -> None:
        missing = [name for name in self.files if not Path(name).is_file()]
        if missing:
            raise ValueError(f"files: there is no {', no '.join(missing)}")
        if isinstance(self.speed, float) and not math.isfinite(self.speed):
            raise ValueError('speed must be a finite number; "max" is as fast as the machine can')


class ReplaySource:
    """See :class:`backends.backend.Source`. Ends when the recordings do.

    The recorded receive times are the rows' ``received_ns``, and the recording's clock is this feed's clock, whatever
    the machine's says. A successor of a replay that died goes on where the ring ends: what was written already runs
    through the protocols once more, to bring them to the same state, but not into the ring.

    Raises:
        RecordingError: a file is no recording, or of a venue that no backend knows.
    """

    def __init__(self, config: ReplayConfig, _machine_clock: Clock | None = None) -> None:
        self._at_max = config.speed == "max"
        self._clock = RecordingClock(math.inf if config.speed == "max" else config.speed)
        self._tracks = [Track(Path(name)) for name in config.files]
        self._gate: Gate | None = None
        self._begun = trio.Event()
        if not config.wait_client:
            self._begun.set()

    @property
    def url(self) -> str:
        """See :class:`backends.backend.Source`; of the first file."""
        return self._tracks[0].reader.url

    def now_ns(self) -> int:
        """See :class:`backends.backend.Source`."""
        return self._clock.now_ns()

    def search_space(self) -> Sequence[MktPair]:
        """Every instrument that the recordings are known to hold."""
        return list(self._gate.markets.values()) if self._gate else []

    def begin(self) -> None:
        """Start, if the configuration says to wait for a client."""
        self._begun.set()

    def outage(self, duration_s: float) -> None:
        """Refuse: what is recorded is recorded."""
        raise NotImplementedError("a replay has no outages but the recorded ones")

    def counts(self) -> MessageCounts:
        """See :class:`backends.backend.Source`; ``unused.truncated`` counts cut last lines."""
        total = MessageCounts()
        for track in self._tracks:
            for counts in (*track.past_counts, track.protocol.counts if track.protocol else MessageCounts()):
                total.add(counts)
        truncated = sum(track.reader.truncated for track in self._tracks)
        if truncated:
            total.unused["truncated"] = truncated
        return total

    async def run(self, sink: Sink) -> None:
        """See :class:`backends.backend.Source`."""
        gate = self._gate = Gate(sink)
        for track in self._tracks:
            track.open(track.reader.url, gate)
        sink.publish()
        await self._begun.wait()
        entries = heapq.merge(*(track.entries() for track in self._tracks), key=_time)
        first = await self._skip(entries, sink.last_received_ns)
        if first is not None:
            gate.open()
            sink.quality(0, Quality.OK)
            await self._play(first, entries, sink)
        sink.quality(0, Quality.STALE)
        sink.publish()

    async def _skip(self, entries: Iterator[tuple[Entry, Track]], until_ns: int) -> tuple[Entry, Track] | None:
        """Take what a predecessor has written already; return the first entry after it."""
        for number, (entry, track) in enumerate(entries):
            if entry.time_ns > until_ns:
                return entry, track
            track.take(entry)
            if number % BATCH_MESSAGES == 0:
                await trio.lowlevel.checkpoint()
        return None

    async def _play(self, first: tuple[Entry, Track], entries: Iterator[tuple[Entry, Track]], sink: Sink) -> None:
        """Take each entry when its time comes.

        Rows are published only where the recorded time moves on, so that a successor which reads "everything up to
        this time is in the ring" is right.
        """
        entry, track = first
        self._clock.begin(entry.time_ns)
        reached_ns, unpublished = entry.time_ns, 0
        while True:
            if entry.what == recording.RECEIVED and sink.recording:
                sink.message(entry.payload, entry.time_ns)
            track.take(entry)
            unpublished += 1
            following = next(entries, None)
            if following is None:
                await self._clock.sleep_until(reached_ns)  # at full speed the clock lags behind within a batch
                return
            entry, track = following
            if entry.time_ns > reached_ns:
                late = self._at_max or self._clock.now_ns() >= entry.time_ns
                if not late or unpublished >= BATCH_MESSAGES:
                    sink.publish()
                    await self._clock.sleep_until(entry.time_ns)
                    unpublished = 0
                reached_ns = entry.time_ns


class Track:
    """One file of a replay, with the protocol of its connection."""

    def __init__(self, path: Path) -> None:
        self.reader = RecordingReader(path)
        self.protocol: VenueProtocol | None = None
        self.past_counts: list[MessageCounts] = []
        self._backend = find_backend(self.reader.url, path)
        self._metadata = recording.read_companions(path)
        self._gate: Gate | None = None
        self._reached_ns = 0  # time of the newest entry

    def open(self, url: str, gate: Gate) -> None:
        """Make the protocol of a connection that was opened."""
        assert self._backend.open_protocol is not None
        self._gate = gate
        self.protocol = self._backend.open_protocol(url, self._metadata, gate)

    def entries(self) -> Iterator[tuple[Entry, Track]]:
        """Read the file from its beginning."""
        return ((entry, self) for entry in self.reader)

    def take(self, entry: Entry) -> None:
        """Give one entry to the protocol; a new connection gets a new one, after a gap row."""
        assert self.protocol is not None
        assert self._gate is not None
        if entry.what == recording.RECEIVED:
            self.protocol.receive(entry.payload, entry.time_ns)
        elif entry.what == recording.OPENED and self._reached_ns:
            self._gate.gap(0, GapReason.DISCONNECT, self._reached_ns, entry.time_ns)
            self.past_counts.append(self.protocol.counts)
            self.open(entry.payload.decode(errors="replace"), self._gate)
        self._reached_ns = entry.time_ns


def find_backend(url: str, path: Path) -> Backend:
    """Find the backend that speaks the protocol of an address.

    Raises:
        RecordingError: none does; the text names the addresses that are known.
    """
    known = [backend for backend in map(load, NAMES) if backend.open_protocol is not None]
    for backend in known:
        if url.startswith(backend.url_prefixes):
            return backend
    prefixes = ", ".join(prefix for backend in known for prefix in backend.url_prefixes)
    raise RecordingError(f"{path}:1: no backend knows the protocol of {url[:100]!r}; known are {prefixes}")


def _time(item: tuple[Entry, Track]) -> int:
    return item[0].time_ns
