"""A feed's funnel: every row of a source goes through here into the ring, every instrument into the table."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np

from backends.backend import RowBlock
from backends.recording import RecordingWriter
from marketd.errors import Lapped
from marketd.feed.meters import Meters
from marketd.model import Flag, GapReason, Kind, MktPair, Quality
from marketd.ring import layout
from marketd.ring.doorbell import Bells
from marketd.ring.reader import RingReader
from marketd.ring.table import TableWriter
from marketd.ring.writer import RingWriter
from marketd.supervise.messages import FeedSpec

DATA_KINDS = (Kind.TRADE, Kind.QUOTE, Kind.LEVEL)


class FeedSink:
    """The :class:`backends.backend.Sink` of a feed actor.

    Rows are counted by kind a batch at a time, from the ring itself, so that counting costs the hot path nothing.
    ``append`` and ``append_block`` are the writer's own methods.
    """

    def __init__(self, spec: FeedSpec, *, recorded: bool = False) -> None:
        self._bells = Bells(Path(spec.bells_path))
        self._writer = RingWriter(Path(spec.ring_path), self._bells)
        self._table = TableWriter(Path(spec.table_path))
        self._reader = RingReader(Path(spec.ring_path), cursor=self._writer.published)
        self._recorder: RecordingWriter | None = None
        self.append = self._writer.append
        self.append_block = self._writer.append_block
        self.meters = Meters(recorded=recorded)
        self.rows_by_kind: dict[str, int] = {}
        self.last_event_ns = 0
        self.last_received_ns = self._find_last_received_ns()

    def __enter__(self) -> FeedSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.publish()
        self.stop_recording()
        for part in (self._reader, self._table, self._writer, self._bells):
            part.close()

    @property
    def succeeds(self) -> bool:
        """Whether a predecessor has written to this ring."""
        return self._reader.published > 0 and self._writer.cursor > 0

    @property
    def cursor(self) -> int:
        """The cursor of the newest row."""
        return self._writer.cursor

    @property
    def instruments(self) -> int:
        """How many instruments have an id."""
        return self._table.count

    def instrument(self, market: MktPair) -> int:
        """See :class:`backends.backend.Sink`."""
        return self._table.add(market)

    def publish(self) -> None:
        """See :class:`backends.backend.Sink`."""
        writer = self._writer
        if self.meters.publish_lag.left and writer.cursor > writer.published:
            writer.publish()
            self.meters.note_published(writer.newest_received_ns())
        else:
            writer.publish()
        if writer.cursor - self._reader.cursor >= writer.rows // 2:
            self.tally()

    def gap(self, instrument: int, reason: GapReason, from_ns: int, to_ns: int, lost: int = -1) -> None:
        """See :class:`backends.backend.Sink`."""
        row = (to_ns, to_ns, 0, instrument, Kind.GAP, 0, Flag.LAST, from_ns, to_ns, int(reason), lost)
        self._writer.append_integers(row)

    def quality(self, instrument: int, quality: Quality) -> None:
        """See :class:`backends.backend.Sink`."""
        self._table.set_quality(instrument, quality)

    def forget_qualities(self) -> None:
        """Let nothing be known of any instrument: a predecessor's are not ours, and some may not come any more."""
        for instrument in range(1, self._table.count + 1):
            self._table.set_quality(instrument, Quality.UNKNOWN)

    def beat(self, now_ns: int) -> None:
        """Show whoever maps the ring that its writer lives."""
        self._writer.beat(now_ns)

    # --- recording ---

    @property
    def recording(self) -> bool:
        """Whether anybody wants to see the raw messages."""
        return self._recorder is not None

    def message(self, payload: bytes, received_ns: int) -> None:
        """See :class:`backends.backend.Sink`."""
        if self._recorder is not None:
            self._recorder.received(payload, received_ns)

    def start_recording(self, recorder: RecordingWriter) -> None:
        """Write every raw message to the recorder from now on."""
        self._recorder = recorder

    def stop_recording(self) -> None:
        """Close the recorder, if there is one."""
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None

    # --- counting ---

    def tally(self) -> None:
        """Count what was published since the last call."""
        try:
            rows = self._reader.read_nowait(self._writer.rows)
        except Lapped as lapped:
            # One batch was larger than the ring. Its rows are known by number only.
            self.rows_by_kind["uncounted"] = self.rows_by_kind.get("uncounted", 0) + lapped.lost
            rows = self._reader.read_nowait(self._writer.rows)
        self._count(rows)

    def _count(self, rows: RowBlock) -> None:
        if not len(rows):
            return
        for kind, count in enumerate(np.bincount(rows["kind"])):
            if count:
                name = layout.KIND_NAMES[kind]
                self.rows_by_kind[name] = self.rows_by_kind.get(name, 0) + int(count)
        data = rows[np.isin(rows["kind"], DATA_KINDS)]
        if len(data):
            self.last_event_ns = max(self.last_event_ns, int(data["event_ns"].max()))
            self.last_received_ns = int(data["received_ns"][-1])
        self.meters.note(rows, data)

    def qualities(self) -> dict[str, int]:
        """Count how many instruments have which quality."""
        counts = np.bincount(self._table.qualities(), minlength=len(Quality)).tolist()
        return {quality.name.lower(): count for quality, count in zip(Quality, counts, strict=True) if count}

    def _find_last_received_ns(self) -> int:
        """Look back through what a predecessor left for its newest data row."""
        last = self._writer.published
        while last >= max(1, self._reader.oldest):
            first = max(1, self._reader.oldest, last - 4096)
            rows = self._reader.read_range(first, last)
            data = rows[np.isin(rows["kind"], DATA_KINDS)]
            if len(data):
                return int(data["received_ns"][-1])
            last = first - 1
        return 0
