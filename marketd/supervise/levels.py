"""How each process of the daemon speaks: as all do, or as somebody wanted it of this one."""

from __future__ import annotations

import msgspec

from marketd.supervise.messages import LogSpec


class LogLevels:
    """What holds for each actor, also for its successors."""

    def __init__(self, spec: LogSpec) -> None:
        self._spec = spec
        self._own: dict[str, str] = {}

    def of(self, actor: str) -> LogSpec:
        """How this actor is to speak."""
        return msgspec.structs.replace(self._spec, level=self._own.get(actor, self._spec.level))

    def set(self, level: str, actor: str | None = None) -> None:
        """Let one actor speak at this level; or all, whatever was wanted of single ones before."""
        if actor is None:
            self.reset(msgspec.structs.replace(self._spec, level=level))
        else:
            self._own[actor] = level

    def reset(self, spec: LogSpec) -> None:
        """Let all speak so."""
        self._spec = spec
        self._own.clear()
