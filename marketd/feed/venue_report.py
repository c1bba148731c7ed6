"""How a live feed stands with its venue, for operators."""

from __future__ import annotations

import msgspec

from marketd.clock import SECOND_NS
from marketd.rpc.messages import VenueStatus


class VenueReport(msgspec.Struct, frozen=True):
    """How a live feed stands with its venue.

    Attributes:
        wanted, live: instruments that are to be there, and that are, on every address of the venue.
        pending: subscriptions that are asked for.
        lost: why there is no connection where there should be one; empty if there are all.
        unknown: names and globs that mean nothing in the venue's list.
        refused: instruments that the venue does not want to give, and why.
        connections: open ones.
        connects, losses, handovers: attempts to connect; connections and attempts that ended; planned replacements.
        duplicates: rows that came a second time and were dropped.
        resting_until_ns: budgets that are throttled or banned.
        listed_ns: when the list of instruments was fetched.
        used, capacity, rests: of the rate budget, by bucket: weight that counts now, of how much, and how often the
            venue wanted to be left alone.
    """

    wanted: int
    live: int
    pending: int
    unknown: list[str]
    refused: dict[str, str]
    connections: int
    connects: int
    losses: int
    handovers: int
    duplicates: int
    resting_until_ns: dict[str, int]
    listed_ns: int
    used: dict[str, int]
    capacity: dict[str, int]
    rests: dict[str, int]
    lost: str = ""

    def status(self) -> VenueStatus:
        """Return the counts."""
        return VenueStatus(
            **{name: getattr(self, name) for name in VenueStatus.__struct_fields__}  # they have the same names
        )

    @property
    def reached(self) -> bool:
        """Whether the venue is there: its list is known, and a connection is open if anything is wanted."""
        return bool(self.listed_ns) and (self.connections > 0 or not self.wanted)

    def trouble(self, now_ns: int) -> str:
        """Say in one line what is not as it should be; empty when all is well."""
        parts = []
        if not self.listed_ns:
            parts.append("the list of instruments is not known yet")
        if self.live < self.wanted - len(self.refused):
            parts.append(f"{self.live} of {self.wanted} instruments live")
        if self.lost:
            parts.append(f"not connected: {self.lost}")
        if self.refused:
            name, reason = next(iter(self.refused.items()))
            parts.append(f"{len(self.refused)} refused, {name}: {reason}")
        if self.unknown:
            parts.append(f"unknown: {', '.join(self.unknown[:3])}")
        for bucket, until_ns in self.resting_until_ns.items():
            parts.append(f"{bucket} throttled for {(until_ns - now_ns) / SECOND_NS:.0f} s")
        return "; ".join(parts)
