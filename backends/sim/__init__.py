"""A simulated venue: seeded, deterministic, any number of instruments, 1 to 200,000 ticks a second."""

from __future__ import annotations

from backends.backend import Backend
from backends.sim.config import SimConfig
from backends.sim.protocol import SimProtocol
from backends.sim.source import URL_PREFIX, SimSource

BACKEND = Backend(
    name="sim",
    description="a simulated venue: seeded and deterministic, with bursts, sessions and outages",
    config=SimConfig,
    open_source=SimSource,
    url_prefixes=(URL_PREFIX,),
    open_protocol=SimProtocol,
)
