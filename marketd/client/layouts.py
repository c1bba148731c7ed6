"""Whether this version can read the rows of a server. Of what it can't, the format ``columns`` has the names."""

from __future__ import annotations

from marketd.client.errors import ProtocolError
from marketd.client.frames import STEP_FAMILIES, family
from marketd.ring import layout, steps
from marketd.rpc import messages

_TICKS = (layout.ROW_BYTES, f"{layout.dtype_hash():016x}")
_STEPS = (steps.STEP_BYTES, f"{steps.STEPS.hash():016x}")


def layout_problem(server: messages.HelloResult, params: messages.SubscribeParams) -> ProtocolError | None:
    """Say why the rows of a stream can't be read here, if they can't: those of ticks, those of bars, or both."""
    if params.format != "rows":
        return None
    stepped = [family(kind) in STEP_FAMILIES for kind in params.kinds]
    if not all(stepped) and (server.row_bytes, server.row_hash) != _TICKS:
        return _problem("rows", (server.row_bytes, server.row_hash), _TICKS)
    if any(stepped) and not reads_steps(server):
        return _problem("rows of bars", (server.step_bytes, server.step_hash), _STEPS)
    return None


def reads_steps(server: messages.HelloResult) -> bool:
    """Whether this server's rows of bars and index events are those that this version knows."""
    return (server.step_bytes, server.step_hash) == _STEPS


def _problem(what: str, theirs: tuple[int, str], ours: tuple[int, str]) -> ProtocolError:
    return ProtocolError(
        f"the server's {what} have another layout ({theirs[0]} bytes, {theirs[1]}) than this version "
        f"knows ({ours[0]} bytes, {ours[1]}): ask for format='columns', or use the server's version"
    )
