"""Pure: which scope each method wants.

A method that is in no table here is refused to everybody, and fails a test: who adds one has to decide.
"""

from __future__ import annotations

from typing import Literal, get_args

Scope = Literal["read", "history", "admin"]

SCOPES: tuple[Scope, ...] = get_args(Scope)

# What whoever may connect at all may do.
OPEN = frozenset({"hello", "ping"})
METHODS: dict[str, Scope] = {
    "status": "read",
    "why": "read",
    "backends": "read",
    "search": "read",
    "instrument": "read",
    "subscribe": "read",
    "update": "read",
    "unsubscribe": "read",
    "bars": "history",
    "history": "history",
    "ticks": "history",
    "coverage": "history",
    "gaps": "history",
    "backfill": "admin",
    "record": "admin",
    "reload": "admin",
    "log.level": "admin",
}
# Of these families every method is the operator's: ``services.restart``, ``clients.kick`` …
ADMIN_FAMILIES = frozenset({"services", "clients", "store", "debug"})
# Of HTTP, by the beginning of the path; None is open to everybody. ``/ws`` is judged by hello, as TCP is.
PATHS: dict[str, Scope | None] = {
    "/v1/bars": "history",
    "/v1/ticks": "history",
    "/v1/instruments": "read",
    "/metrics": "read",
    "/healthz": None,
    "/readyz": None,
    "/ws": None,
    "/client": None,
}


class Unlisted(LookupError):  # noqa: N818 - a fact about a table
    """A method or path of which nobody has said who may use it."""


def scope_of(method: str) -> Scope | None:
    """Return the scope that a method wants, None for none.

    Raises:
        Unlisted: nobody may call it.
    """
    if method in OPEN:
        return None
    if method in METHODS:
        return METHODS[method]
    if method.partition(".")[0] in ADMIN_FAMILIES:
        return "admin"
    raise Unlisted(method)


def scope_of_path(path: str) -> Scope | None:
    """Return the scope that a path of HTTP wants, None for none.

    Raises:
        Unlisted: nobody may ask for it.
    """
    for prefix, scope in PATHS.items():
        if path == prefix or path.startswith(f"{prefix}/"):
            return scope
    raise Unlisted(path)
