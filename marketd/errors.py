"""The error tree. The type says whose doing it was, and so what to do about it."""

from __future__ import annotations


class MarketdError(Exception):
    """The root of all errors that a caller of ours may want to catch."""


class ConfigError(MarketdError):
    """The configuration is wrong: the operator's doing. The text names the file, the key and what is allowed."""


class InstanceRunningError(MarketdError):
    """Another daemon of the same instance name runs on this machine."""


class SegmentError(MarketdError):
    """A shared-memory segment is missing, foreign, or of another layout than this code's."""


class Lapped(MarketdError):  # noqa: N818 - an event in a reader's life and the field's word for it, no mistake of anyone
    """The writer overtook a reader; ``lost`` rows are gone and the reader now stands at the oldest row left."""

    def __init__(self, cursor_first: int, cursor_last: int) -> None:
        super().__init__(f"rows {cursor_first} to {cursor_last} were overwritten before they were read")
        self.cursor_first = cursor_first
        self.cursor_last = cursor_last

    @property
    def lost(self) -> int:
        """How many rows were lost."""
        return self.cursor_last - self.cursor_first + 1


class ActorError(MarketdError):
    """Something about an actor process, seen from its parent."""


class ActorDied(ActorError):  # noqa: N818
    """The process is gone, or was found mute and killed."""


class LinkClosed(ActorError):  # noqa: N818
    """The other side of a control link is gone."""


class RequestTimeout(ActorError):  # noqa: N818
    """No answer came before the request's deadline."""


class RequestRefused(ActorError):  # noqa: N818
    """The other side answered with an error; ``code`` is stable, the text is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CannotStart(MarketdError):  # noqa: N818 - a state that passes
    """What an actor's process needs can't be had at the moment; the text says what and why."""


class WireError(MarketdError):
    """A venue's message can't be used: the venue's doing. It is counted, kept for inspection, and the feed goes on."""


class RecordingError(MarketdError):
    """A recording, or a file of saved trades, can't be read; the text names the file, and where in it."""


class StorageError(MarketdError):
    """The store can't do what was asked of it; the text says of which series or file."""


class StorageConnectionError(StorageError):
    """The store can't be reached: there is no such backend, or its folder can't be read or made."""


class SeriesBusy(StorageError):  # noqa: N818 - a state that passes, as a lock's does
    """Another writer has the series."""


class Overlap(StorageError):  # noqa: N818 - nobody's mistake until somebody says which side wins
    """Rows of the same time are stored already, and nobody said which to keep."""


class InputError(MarketdError):
    """A file that was to be taken in can't be: the text names the file, and the first row that is at fault."""


def reason_of(error: BaseException) -> str:
    """Say why there is no connection: trio hides the error of each attempt in a group, behind its own."""
    cause = error.__cause__
    if not isinstance(cause, BaseExceptionGroup):
        return str(cause or error)
    return "; ".join(dict.fromkeys(reason_of(each) for each in cause.exceptions))
