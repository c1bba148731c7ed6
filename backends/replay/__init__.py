"""Plays recordings through their venues' own protocols, and saved trades, all in their own time."""

from __future__ import annotations

from backends.backend import Backend
from backends.replay.source import ReplayConfig, ReplaySource

BACKEND = Backend(
    name="replay",
    description="recorded websocket traffic, played through the venue's protocol, or saved REST trades, at any speed",
    config=ReplayConfig,
    open_source=ReplaySource,
    recorded=True,
)
