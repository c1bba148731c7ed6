"""Which name a folder is known by: its own, or the fuller one that it was claimed for. See `names.py`.

<store>/<backend>/<instrument>/fqme     the full name, as text; only where it is not the folder's
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from marketd.errors import StorageError
from storage import names
from storage.staging import TEMPORARY, sync_folder

CLAIM = "fqme"


def known(backend_folder: Path, start: str = "") -> dict[str, str]:
    """Return the instruments' folders below a backend's by the name that each is known by; none if there are none.

    Args:
        start: only those folders whose names begin so. There may be thousands of others.

    Raises:
        StorageError: the folder can't be read.
    """
    found = {}
    try:
        folders = [each for each in backend_folder.iterdir() if each.name.startswith(start) and each.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise StorageError(f"{backend_folder} can't be read: {error.strerror}") from error
    for folder in folders:
        name = names.name_of(folder.name)
        if name is not None:
            found[_claimed(folder, name)] = folder.name
    return found


def claim(folder: Path, name: str) -> None:
    """Let a folder that is named without the currency be known by the full name, unless it already is by another."""
    own = names.name_of(folder.name)
    name = str(names.parse(name))
    if own is None or not names.is_full_form(name, own) or (folder / CLAIM).exists():
        return
    beside = folder / f".{CLAIM}.{secrets.token_hex(4)}{TEMPORARY}"
    beside.write_text(name)
    with contextlib.suppress(FileExistsError):  # two at once: the first one has it
        os.link(beside, folder / CLAIM)
    beside.unlink()
    sync_folder(folder)


def unclaim(folder: Path) -> None:
    """Let a folder go by its own name again, if nothing is in it but the claim."""
    if [entry.name for entry in folder.iterdir()] == [CLAIM]:
        (folder / CLAIM).unlink()


def _claimed(folder: Path, name: str) -> str:
    try:
        claimed = (folder / CLAIM).read_text()
    except FileNotFoundError:
        return name
    except OSError as error:
        raise StorageError(f"{folder / CLAIM} can't be read: {error.strerror}") from error
    return claimed if names.is_full_form(claimed, name) else name
