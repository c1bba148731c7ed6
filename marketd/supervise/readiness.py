"""Pure: what keeps a daemon from being ready: feeds that are not live, actors that are down, rings not read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from marketd.supervise.messages import FeedInfo
from marketd.supervise.service import Service

_GOOD = ("live", "finished")


def problems(
    feeds: Iterable[FeedInfo],
    services: Iterable[Service],
    gateways: Mapping[str, Mapping[str, int]],
    sampled: Mapping[str, object] | None,
    unreached: Mapping[str, str],
) -> list[str]:
    """Say in a sentence each what is not as it should be. What was stopped on purpose is as it should be.

    Args:
        feeds: those of the configuration.
        services: all of them.
        gateways: for each one that is live, the feeds that it reads, with their epochs.
        sampled: the feeds of which bars are made, by name; None while there is no sampler that could say so.
        unreached: the feeds that have not reached their venue yet, and why. An outage that comes later is no reason to
            take the other venues' clients away.
    """
    found = []
    for service in services:
        if service.wanted and service.state not in _GOOD:
            found.append(_sentence(service))
        elif service.name in gateways and service.trouble:  # then new clients are better off elsewhere
            found.append(f"{service.name}: {service.trouble}")
    for feed in feeds:
        if feed.state not in _GOOD:
            continue
        if feed.name in unreached:
            why = unreached[feed.name]
            found.append(f"feed {feed.name} has not reached its venue yet" + (f": {why}" if why else ""))
        found += [
            f"{name} does not read the ring of feed {feed.name} yet"
            for name, read in gateways.items()
            if read.get(feed.name) != feed.epoch
        ]
        if sampled is not None and feed.series and feed.name not in sampled:
            found.append(f"the sampler does not read the ring of feed {feed.name} yet")
    return found


def _sentence(service: Service) -> str:
    what = f"feed {service.name.removeprefix('feed.')}" if service.name.startswith("feed.") else service.name
    return f"{what} is {service.state}" + (f": {service.detail}" if service.detail else "")
