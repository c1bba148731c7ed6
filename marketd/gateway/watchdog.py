"""Pure: when a client has been waited for long enough.

The gateway looks at every client a few times a second, from a task outside of theirs: one that hangs in a write could
not look at itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from marketd.supervise.messages import LimitsSpec

SILENT_INTERVALS_MAX = 3


@dataclass
class Times:
    """What is looked at; kept by the client's own tasks, as of ``trio.current_time()``.

    Attributes:
        connected_s: when the client connected.
        greeted: whether it said hello.
        promised_s: the longest silence it promised; 0 for no promise.
        reading_s: since when we wait for bytes of it; None while we don't, because its answers are not read.
        frame_s: since when we wait for the rest of a frame; None when none has begun.
        blocked_s: since when it takes no bytes of ours; None when there are none or it does.
    """

    connected_s: float
    greeted: bool = False
    promised_s: float = 0.0
    reading_s: float | None = None
    frame_s: float | None = None
    blocked_s: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Why a client has to go: a short reason for the log and status, and a sentence for the client."""

    reason: str
    sentence: str


def judge(times: Times, limits: LimitsSpec, now_s: float) -> Verdict | None:
    """Return why the client has to go; None if it may stay."""
    if times.blocked_s is not None and now_s - times.blocked_s > limits.stall_timeout_s:
        return Verdict("stalled", f"nothing was taken for {limits.stall_timeout_s:g} s; go on from these positions")
    if not times.greeted and now_s - times.connected_s > limits.hello_timeout_s:
        return Verdict("no hello", f"no hello came within {limits.hello_timeout_s:g} s")
    if times.reading_s is None:
        return None
    if times.frame_s is not None and now_s - times.frame_s > limits.frame_timeout_s:
        return Verdict("half a frame", f"a frame was begun and not completed within {limits.frame_timeout_s:g} s")
    silence_s = SILENT_INTERVALS_MAX * times.promised_s
    if silence_s and now_s - times.reading_s > silence_s:
        promise = f"although a heartbeat every {times.promised_s:g} s was promised"
        return Verdict("silent", f"nothing came for {silence_s:g} s, {promise}")
    return None
