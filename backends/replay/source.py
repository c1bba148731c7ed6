"""The replay source: recorded bytes in, the venue protocol's rows out, timed by the recording."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import trio

from backends.backend import MessageCounts, Sink
from backends.replay.gate import Gate
from backends.replay.recorded import RecordedTrack
from backends.replay.saved import SavedTrack
from backends.replay.track import Moment, Track
from backends.saved import is_saved
from marketd.clock import Clock, RecordingClock
from marketd.model import MktPair, Quality

BATCH_MESSAGES = 128  # between two turns of the event loop when there is no time to wait for


class ReplayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A replay feed's table.

    Attributes:
        files: recordings, and saved REST trades; several are merged by time.
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
        RecordingError: a file is nothing that can be played, or of a venue that no backend knows.
    """

    def __init__(self, config: ReplayConfig, _machine_clock: Clock | None = None) -> None:
        self._at_max = config.speed == "max"
        self._clock = RecordingClock(math.inf if config.speed == "max" else config.speed)
        self._tracks = [open_track(Path(name)) for name in config.files]
        self._gate: Gate | None = None
        self._due_ns: int | None = None  # of the next moment, once it plays
        self._begun = trio.Event()
        if not config.wait_client:
            self._begun.set()

    @property
    def url(self) -> str:
        """See :class:`backends.backend.Source`; of the first recording."""
        return next((track.url for track in self._tracks if track.url), "")

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
        """See :class:`backends.backend.Source`."""
        total = MessageCounts()
        for track in self._tracks:
            total.add(track.counts())
        return total

    def quiet(self) -> bool:
        """See :class:`backends.backend.Source`: it waits for a client, or for what was recorded to be due."""
        return self._due_ns is None or self._clock.now_ns() < self._due_ns

    async def run(self, sink: Sink) -> None:
        """See :class:`backends.backend.Source`."""
        gate = self._gate = Gate(sink)
        for track in self._tracks:
            track.open(gate)
        sink.publish()
        await self._begun.wait()
        moments = heapq.merge(*(track.moments() for track in self._tracks), key=_time)
        first = await self._skip(moments, sink.last_received_ns)
        if first is not None:
            gate.open()
            sink.quality(0, Quality.OK)
            await self._play(first, moments, sink)
        sink.quality(0, Quality.STALE)
        sink.publish()

    async def _skip(self, moments: Iterator[Moment], until_ns: int) -> Moment | None:
        """Take what a predecessor has written already; return the first moment after it."""
        for number, moment in enumerate(moments):
            if moment.time_ns > until_ns:
                return moment
            moment.take()
            if number % BATCH_MESSAGES == 0:
                await trio.lowlevel.checkpoint()
        return None

    async def _play(self, moment: Moment, moments: Iterator[Moment], sink: Sink) -> None:
        """Take each moment when its time comes.

        Rows are published only where the recorded time moves on, so that a successor which reads "everything up to
        this time is in the ring" is right.
        """
        self._clock.begin(moment.time_ns)
        self._due_ns = moment.time_ns
        reached_ns, unpublished = moment.time_ns, 0
        while True:
            if moment.message is not None and sink.recording:
                sink.message(moment.message, moment.time_ns)
            moment.take()
            unpublished += 1
            following = next(moments, None)
            if following is None:
                await self._clock.sleep_until(reached_ns)  # at full speed the clock lags behind within a batch
                return
            moment = following
            if moment.time_ns > reached_ns:
                late = self._at_max or self._clock.now_ns() >= moment.time_ns
                if not late or unpublished >= BATCH_MESSAGES:
                    sink.publish()
                    self._due_ns = moment.time_ns
                    await self._clock.sleep_until(moment.time_ns)
                    unpublished = 0
                reached_ns = moment.time_ns


def open_track(path: Path) -> Track:
    """Open a file as what it is.

    Raises:
        RecordingError: it is nothing that can be played, or of a venue that no backend knows.
    """
    return SavedTrack(path) if is_saved(path) else RecordedTrack(path)


def _time(moment: Moment) -> int:
    return moment.time_ns
