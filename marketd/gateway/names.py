"""From the names that a client writes to those that the feeds have."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Iterable

import trio

from marketd.gateway.decode import Refusal, shown
from marketd.gateway.feeds import Feeds
from marketd.gateway.selection import Selection
from marketd.rpc.messages import ErrorCode
from marketd.security.access import Access

NAMES_IN_ONE_GO = 4096  # looked up between two turns of the event loop
SUGGESTED_FOR_MAX = 3  # unknown names; who asks for thousands has not mistyped each of them
SUGGESTIONS_MAX = 5
CANDIDATES_MAX = 200
_SHOWN_MAX = 5

Carry = Callable[[list[str]], Awaitable[object]]


async def resolve(feeds: Feeds, names: Iterable[str], carry: Carry, access: Access) -> set[str]:
    """Return names as the feeds write them.

    Args:
        feeds: whose tables are looked at first.
        names: full names.
        carry: asks the venues' own lists for what no table has, and lets the tables have it.
        access: of the client.

    Raises:
        Refusal: FORBIDDEN, one is not for this client, whether it exists or not; UNKNOWN_INSTRUMENT with all that no
            feed has in ``data.unknown``, and close ones in ``data.close``.
    """
    await feeds.learn()
    known, unknown = await _find_all(feeds, names)
    check_permitted(access, [*sorted(known), *unknown])
    if unknown:
        await carry(unknown)
        await feeds.learn()
        more_known, unknown = await _find_all(feeds, unknown)
        check_permitted(access, sorted(more_known))
        known |= more_known
    if not unknown:
        return known
    close = await suggest(feeds, unknown[:SUGGESTED_FOR_MAX], access.permits)
    more = f" and {len(unknown) - _SHOWN_MAX} more" if len(unknown) > _SHOWN_MAX else ""
    raise Refusal(
        ErrorCode.UNKNOWN_INSTRUMENT,
        f"no feed has {', '.join(map(shown, unknown[:_SHOWN_MAX]))}{more}"
        + (f"; close to it: {', '.join(close)}" if close else "; search finds names, and a glob may match later ones"),
        unknown=unknown,
        close=close,
    )


def check_permitted(access: Access, names: Iterable[str]) -> None:
    """Raise Refusal, FORBIDDEN, if a name is not one that a client may see."""
    forbidden = [name for name in names if not access.permits(name)]
    if forbidden:
        more = f" and {len(forbidden) - _SHOWN_MAX} more" if len(forbidden) > _SHOWN_MAX else ""
        raise Refusal(
            ErrorCode.FORBIDDEN,
            f"the token {access.name!r} is not for {', '.join(map(shown, forbidden[:_SHOWN_MAX]))}{more}; it is for "
            f"{', '.join(sorted(access.within))}",
            forbidden=forbidden,
            instruments=sorted(access.within),
        )


async def _find_all(feeds: Feeds, names: Iterable[str]) -> tuple[set[str], list[str]]:
    known: set[str] = set()
    unknown: list[str] = []
    for number, name in enumerate(sorted(names), 1):
        found = feeds.find(name)
        if found is None:
            unknown.append(name)
        else:
            known.add(found[1])
        if number % NAMES_IN_ONE_GO == 0:
            await trio.lowlevel.checkpoint()
    return known, unknown


async def suggest(feeds: Feeds, unknown: Iterable[str], permits: Callable[[str], bool]) -> list[str]:
    """Return a few names that are close to the unknown ones, of those that the client may see."""
    close: dict[str, None] = {}
    for name in unknown:
        wanted = name.strip().lower()
        candidates: list[str] = []
        for feed in list(feeds.by_name.values()):
            candidates += filter(permits, _alike(wanted, feed.names))
            await trio.lowlevel.checkpoint()
        close |= dict.fromkeys(difflib.get_close_matches(wanted, candidates[:CANDIDATES_MAX], n=3, cutoff=0.5))
        await trio.lowlevel.checkpoint()
    return list(close)[:SUGGESTIONS_MAX]


def _alike(wanted: str, names: list[str]) -> list[str]:
    """Return names that share a beginning with the wanted one, or as many of the others as are worth a comparison."""
    beginning = wanted[:3]
    return [name for name in names if name.startswith(beginning)][:CANDIDATES_MAX] or names[: CANDIDATES_MAX // 5]


async def unmatched(feeds: Feeds, selection: Selection) -> list[str]:
    """Return those of a selection's globs that select no instrument of any feed, sorted."""
    found = []
    for glob, pattern in sorted(selection.patterns.items()):
        for feed in list(feeds.by_name.values()):
            if any(pattern.match(name) and selection.permits(name) for name in feed.names):
                break
            await trio.lowlevel.checkpoint()
        else:
            found.append(glob)
    return found
