"""What goes wrong for a while: told when it begins and when it is over, not each time that it is met."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from structlog.typing import FilteringBoundLogger

from marketd.errors import StorageError

# Of these the other files of a disk have the same.
_EVERYWHERE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EIO)


class Trouble:
    """See the module.

    Args:
        began, ended: the log's events.
        facts: what both tell beside it.

    Attributes:
        text: what it is now; empty if all is well.
    """

    def __init__(self, log: FilteringBoundLogger, began: str, ended: str, **facts: object) -> None:
        self.text = ""
        self._log = log
        self._facts = facts
        self._began, self._ended = began, ended

    def begin(self, text: str, **facts: object) -> None:
        """Note that it is there, or still is."""
        if not self.text:
            self._log.error(self._began, error=text, **self._facts, **facts)
        self.text = text

    def end(self) -> None:
        """Note that it is not there, or not any more."""
        if self.text:
            self._log.info(self._ended, error=self.text, **self._facts)
        self.text = ""


class Unreadable:
    """Feeds whose segments a reader could not attach to.

    Args:
        began, ended: the log's events.
    """

    def __init__(self, log: FilteringBoundLogger, began: str, ended: str) -> None:
        self._log = log
        self._events = began, ended
        self._troubles: dict[str, Trouble] = {}

    def note(self, feed: str, error: Exception) -> None:
        """Note that one could not be attached to."""
        trouble = self._troubles.setdefault(feed, Trouble(self._log, *self._events, feed=feed))
        trouble.begin(f"feed {feed} can't be read: {error}")

    def forget(self, feed: str) -> None:
        """Note that one was attached to."""
        if feed in self._troubles:
            self._troubles.pop(feed).end()

    def keep(self, feeds: Iterable[str]) -> None:
        """Know only of these; the others have gone."""
        self._troubles = {feed: self._troubles[feed] for feed in self._troubles.keys() & set(feeds)}

    def texts(self) -> list[str]:
        """What there is to say."""
        return [trouble.text for trouble in self._troubles.values()]


def lacks_descriptors(error: BaseException | None) -> bool:
    """Whether there was no file descriptor left: each actor says so of itself (:mod:`marketd.observe.vitals`)."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def is_everywhere(error: StorageError) -> bool:
    """Whether writing anything else would fail too: the disk is full, or read-only, or no file can be opened."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _EVERYWHERE
