"""Taking secrets out of what is shown to others. Pure.

A value is secret by the name that it has; wherever else the same value turns up, in a log line say, it is taken out
too. Credentials within addresses have no name of their own and are found by their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

HIDDEN = "***"
VALUE_MIN = 4  # shorter ones would be found everywhere
_NAME = re.compile(
    r"token|secret|passw|passphrase|api_?-?key|private|credential|authori[sz]ation|cookie|signature", re.IGNORECASE
)
_USER_INFO = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<secret>[^/@\s\"']+)@", re.IGNORECASE)
_QUERY = re.compile(r"(?P<name>[?&][\w.-]+=)(?P<secret>[^&\s\"'#]+)")

# Variables that say how the daemon was started. Of all others only the names are shown: who knows what is in them.
_SHOWN = re.compile(
    r"(MARKETD|LC|XDG|PYTHON|NUMBA|POLARS|OMP|RUNTIME|STATE|CACHE|CONFIGURATION|LOGS)_\w+"
    r"|PATH|HOME|LANG|TZ|TERM|SHELL|PWD|USER|LOGNAME|PYTHONPATH|NOTIFY_SOCKET|WATCHDOG_(USEC|PID)|LISTEN_(FDS|PID|FDNAMES)"
    r"|INVOCATION_ID|JOURNAL_STREAM|NO_COLOR|COLUMNS|VIRTUAL_ENV|TMPDIR"
)


def is_secret(name: str) -> bool:
    """Whether values of this name are not to be shown."""
    return _NAME.search(name) is not None


def hide(value: object) -> object:
    """Return a value as JSON has it, without what is secret in it."""
    if isinstance(value, Mapping):
        return {name: HIDDEN if is_secret(str(name)) and inner else hide(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [hide(inner) for inner in value]
    return hide_in_addresses(value) if isinstance(value, str) else value


def secrets_in(value: object, name: str = "") -> Iterator[str]:
    """Yield all texts that are secret in a value as JSON has it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            # What is below a secret name is secret whatever it is called.
            yield from secrets_in(inner, name if is_secret(name) else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from secrets_in(inner, name)
    elif isinstance(value, str):
        if is_secret(name):
            yield value
        for pattern in (_USER_INFO, _QUERY):
            for found in pattern.finditer(value):
                if pattern is _USER_INFO or is_secret(found["name"]):
                    yield found["secret"]
                    yield from found["secret"].split(":")


def hide_in_addresses(text: str) -> str:
    """Take user names and passwords out of addresses, and what their queries call a key, a token and the like."""
    text = _USER_INFO.sub(rf"\g<scheme>{HIDDEN}@", text)
    return _QUERY.sub(lambda found: found["name"] + HIDDEN if is_secret(found["name"]) else found[0], text)


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Take known secrets out of a text, wherever they are."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= VALUE_MIN:
            text = text.replace(secret, HIDDEN)
    return hide_in_addresses(text)


def shown_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with those values that are known to say nothing secret."""
    shown = {}
    for name, value in sorted(environment.items()):
        harmless = _SHOWN.fullmatch(name) is not None and not is_secret(name)
        shown[name] = hide_in_addresses(value) if harmless else "(not shown)"
    return shown
