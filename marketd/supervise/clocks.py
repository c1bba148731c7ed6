"""Whether this machine's clock is right, as the venues of all feeds see it: noticed, and said once."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from marketd.clock import MILLISECOND_NS, SECOND_NS
from marketd.observe.venue_clock import Skew, find_skew
from marketd.rpc.messages import HostClock, VenueClock

log = structlog.get_logger("marketd.supervise")


class ClockWatch:
    """Keeps what was found last."""

    def __init__(self) -> None:
        self._skew: Skew | None = None

    def look(self, clocks: Mapping[str, VenueClock | None]) -> None:
        """Compare what the feeds say of their venues' clocks; log it when what follows from that changes."""
        found = find_skew({name: clock for name, clock in clocks.items() if clock is not None})
        if found is not None and self._skew is None:
            log.warning("clock.skewed", offset_ms=found.offset_ms, venues=found.venues, others=found.others)
        elif found is None and self._skew is not None:
            log.info("clock.right")
        self._skew = found

    def status(self, jumps: int, ahead_ns: int = 0) -> HostClock:
        """Say what was found, in a sentence too; ``ahead_ns``: by so much it was set, and the daemon did not follow."""
        if ahead_ns:
            way = "ahead" if ahead_ns > 0 else "back"
            detail = (
                f"this machine's clock was set {abs(ahead_ns) / SECOND_NS:.3f} s {way}; what comes is dated as if "
                "it had not been: let an NTP client set it right, or restart the daemon if it is right now"
            )
            return HostClock(True, ahead_ns / MILLISECOND_NS, detail, jumps)
        skew = self._skew
        return HostClock(jumps=jumps) if skew is None else HostClock(True, skew.offset_ms, sentence(skew), jumps)


def sentence(skew: Skew) -> str:
    """Say which way the clock is wrong, by how much, and who says so."""
    way = "ahead of" if skew.offset_ms > 0 else "behind"
    return (
        f"this machine's clock is {abs(skew.offset_ms) / 1000:.3f} s {way} that of {', '.join(skew.venues)}: "
        "let an NTP client set it (`timedatectl`, `chronyc tracking`)"
    )
