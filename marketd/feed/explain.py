"""What a live feed knows of one instrument, for who asks why it is not live. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from backends.backend import Sink
from marketd.feed.markets import MarketList
from marketd.feed.route import Route
from marketd.feed.wanted import Wanted
from marketd.model import MktPair
from marketd.observe.why import VenueFacts


def venue_facts(
    name: str,
    listed: MarketList,
    wanted: Wanted,
    carried: Mapping[str, MktPair],
    routes: Iterable[Route],
    sink: Sink | None,
) -> VenueFacts:
    """Gather it. ``carried``: the instruments that are to be subscribed to, by name."""
    market = listed.find(name)
    fqme = market.fqme if market is not None else name
    routes = list(routes)
    # A row id is only looked up of what has one: to ask for another's would give it one.
    instrument = sink.instrument(carried[fqme]) if sink is not None and fqme in carried else 0
    outages = [route.around.tracks.outages[instrument] for route in routes if instrument in route.around.tracks.outages]
    dialogues = [dialogue for route in routes for dialogue in route.around.dialogues]
    return VenueFacts(
        listed_ns=listed.fetched_ns,
        listed=market is not None,
        declared=wanted.declares(fqme),
        owners=wanted.count(fqme),
        lingering=wanted.lingers(fqme),
        carried=fqme in carried,
        subscribed=bool(routes) and all(fqme in route.around.live() for route in routes),
        pending=any(fqme in dialogue.protocol.pending for dialogue in dialogues),
        refused=next((route.around.refused[fqme] for route in routes if fqme in route.around.refused), ""),
        outage=outages[0].reason.name.lower() if outages else "",
        outage_from_ns=outages[0].from_ns if outages else 0,
    )
