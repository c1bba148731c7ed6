"""What goes wrong for a while: told when it begins and when it is over, not each time that it is met."""

from __future__ import annotations

import errno

from structlog.typing import FilteringBoundLogger

from marketd.errors import StorageError

# Of these the other files of a disk have the same.
_EVERYWHERE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EIO)


class Trouble:
    """See the module.

    Args:
        began, ended: the log's events.

    Attributes:
        text: what it is now; empty if all is well.
    """

    def __init__(self, log: FilteringBoundLogger, began: str, ended: str) -> None:
        self.text = ""
        self._log = log
        self._began, self._ended = began, ended

    def begin(self, text: str, **facts: object) -> None:
        """Note that it is there, or still is."""
        if not self.text:
            self._log.error(self._began, error=text, **facts)
        self.text = text

    def end(self) -> None:
        """Note that it is not there, or not any more."""
        if self.text:
            self._log.info(self._ended, error=self.text)
        self.text = ""


def is_everywhere(error: StorageError) -> bool:
    """Whether writing anything else would fail too: the disk is full, or read-only, or no file can be opened."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _EVERYWHERE
