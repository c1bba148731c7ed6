"""Where an instance keeps its files. Nothing here touches the disk but :meth:`Paths.create` and :meth:`Paths.segments`.

Each folder is systemd's (`$STATE_DIRECTORY` …) where that is set, and else follows the XDG base directory rules:
https://specifications.freedesktop.org/basedir-spec/latest/. Needs the standard library alone: clients use it too.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from marketd.errors import ConfigError

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,31}$"
SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Paths:
    """The folders of one instance. Its shared memory is named after the user, the instance and the runtime folder.

    The runtime folder is part of the segments' names because it holds the lock: two daemons that do not see each
    other's lock must not see each other's segments either.
    """

    instance: str
    state: Path
    runtime: Path
    cache: Path
    shm: Path = SHM

    @classmethod
    def for_instance(cls, instance: str, base: Path | None = None, env: Mapping[str, str] = os.environ) -> Paths:
        """Decide on the folders; none is made yet.

        Args:
            base: everything (but shared memory) goes below ``base/<instance>``, whatever the environment says.

        Raises:
            ConfigError: the name is not one that an instance can have.
        """
        if not re.fullmatch(NAME_PATTERN, instance):
            raise ConfigError(
                f"instance name {instance!r}: 1 to 32 of a-z, 0-9, _ and - are allowed, _ and - not first"
            )
        if base is not None:
            root = base.absolute() / instance
            return cls(instance, root / "state", root / "runtime", root / "cache")
        return cls(
            instance,
            state=_systemd(env, "STATE_DIRECTORY") or _xdg(env, "XDG_STATE_HOME", ".local/state") / instance,
            runtime=_systemd(env, "RUNTIME_DIRECTORY") or runtime_folder(env) / instance,
            cache=_systemd(env, "CACHE_DIRECTORY") or _xdg(env, "XDG_CACHE_HOME", ".cache") / instance,
        )

    @property
    def socket(self) -> Path:
        """The Unix socket for clients."""
        return self.runtime / "marketd.sock"

    @property
    def history_socket(self) -> Path:
        """Where the history manager answers this instance's gateways."""
        return self.runtime / "history.sock"

    @property
    def lock(self) -> Path:
        """Locked by the daemon for as long as it runs."""
        return self.runtime / "daemon.lock"

    @property
    def addresses(self) -> Path:
        """The addresses that are really listened on, as a JSON list; there while the daemon is ready."""
        return self.runtime / "addresses.json"

    @property
    def recordings(self) -> Path:
        """Where `marketd record` puts its files."""
        return self.state / "recordings"

    @property
    def tokens(self) -> Path:
        """Who may connect, unless the configuration names another file."""
        return self.state / "tokens.json"

    @property
    def audit(self) -> Path:
        """What was done in the operator's name."""
        return self.state / "audit.log"

    @property
    def store(self) -> Path:
        """Stored history, see storage/README.md."""
        return self.state / "store"

    def epochs(self, feed: str) -> Path:
        """How the epochs of a feed's ring have ended."""
        return self.state / "epochs" / f"{feed}.jsonl"

    def segment(self, feed: str, what: str) -> Path:
        """A feed's shared memory; ``what`` is ``ring``, ``table`` or ``bells``."""
        return self.shm / f"{self._segment_prefix}{feed}.{what}"

    def segments(self) -> list[Path]:
        """Everything of this instance that lies in shared memory now, doorbells included."""
        return sorted(self.shm.glob(f"{self._segment_prefix}*"))

    def segments_of(self, feed: str) -> list[Path]:
        """Of these, one feed's. No feed's name has a dot."""
        return sorted(self.shm.glob(f"{self._segment_prefix}{feed}.*"))

    @property
    def _segment_prefix(self) -> str:
        key = hashlib.blake2b(os.fsencode(self.runtime), digest_size=4).hexdigest()
        return f"marketd.{os.getuid()}.{self.instance}.{key}."

    def create(self) -> None:
        """Make the folders, for this user only (0700).

        Raises:
            ConfigError: one can't be made, or is someone else's; the text names it.
        """
        for folder in (self.state, self.runtime, self.cache, self.recordings):
            _make_private(folder)


def config_folder(env: Mapping[str, str] = os.environ) -> Path:
    """The user's folder for configuration files."""
    return _xdg(env, "XDG_CONFIG_HOME", ".config")


def cache_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Where things are kept that can be made again, of all instances."""
    return _systemd(env, "CACHE_DIRECTORY") or _xdg(env, "XDG_CACHE_HOME", ".cache")


def _systemd(env: Mapping[str, str], variable: str) -> Path | None:
    # A unit with several folders gets them all in one variable, separated by colons: systemd.exec(5).
    first = env.get(variable, "").split(":")[0]
    return Path(first) if first else None


def _xdg(env: Mapping[str, str], variable: str, below_home: str) -> Path:
    # "All paths must be absolute. If [...] a relative path [...] should consider the path invalid and ignore it."
    value = env.get(variable, "")
    home = Path(env["HOME"]) if env.get("HOME") else Path.home()
    return (Path(value) if value.startswith("/") else home / below_home) / "marketd"


def runtime_folder(env: Mapping[str, str] = os.environ) -> Path:
    """The user's folder for all that lasts no longer than a process."""
    value = env.get("XDG_RUNTIME_DIR", "")
    if value.startswith("/"):
        return Path(value) / "marketd"
    # Not set in cron jobs, containers and `su`. The temporary folder is everybody's, so `create` checks the owner.
    return Path(tempfile.gettempdir()) / f"marketd-{os.getuid()}"


def _make_private(folder: Path) -> None:
    try:
        for path in reversed((folder, *folder.parents)):
            if path.exists() or path.is_symlink():
                _refuse_planted(path)
            else:
                path.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat()
        if found.st_uid != os.getuid():
            raise ConfigError(f"folder {folder} belongs to user {found.st_uid}, not to this one ({os.getuid()})")
        if stat.S_IMODE(found.st_mode) & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"folder {folder} can't be made: {error.strerror}") from error


def _refuse_planted(path: Path) -> None:
    """Refuse what somebody else has put where everybody may put something, a link to one of our own folders too."""
    around = path.parent.stat()
    if around.st_mode & stat.S_ISVTX and around.st_mode & stat.S_IWOTH and path.lstat().st_uid != os.getuid():
        raise ConfigError(f"folder {path} was made by user {path.lstat().st_uid}, not by this one ({os.getuid()})")
