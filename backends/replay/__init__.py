"""Plays recordings of a venue through that venue's own protocol, in the recording's own time."""

from __future__ import annotations

from backends.backend import Backend
from backends.replay.source import ReplayConfig, ReplaySource

BACKEND = Backend(
    name="replay",
    description="recorded websocket traffic, played through the venue's protocol at any speed",
    config=ReplayConfig,
    open_source=ReplaySource,
)
