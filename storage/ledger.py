"""What is remembered of a series beside its rows: a coverage, a calendar, and how large its files were.

    ledger.json = {"version": 1, "calendar": "24/7", "coverage": [[start_ns, end_ns, state, provenance], ...],
                   "files": {"2024-01-05": [bytes, rows], ...}}

One small file, replaced as a whole. A log would need compacting and a rule for its torn end; a coverage is as long as
there are changes in it, some kilobytes, and whatever it tells of has cost a file that was synced as well.

The files are the truth of what is held, the ledger of what is known to be empty. It is written after the files it tells
of, so one of them may be newer than it says when its writer was killed: :func:`reconcile` compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from marketd.errors import StorageError
from storage import coverage
from storage.contents import Contents
from storage.coverage import Span, State
from storage.files import Damaged
from storage.intervals import Range
from storage.layout import Partition, overlapping, parse_partition
from storage.schema import Provenance
from storage.staging import replacing

NAME = "ledger.json"
VERSION = 1


class FileFacts(NamedTuple):
    """What a file was when the ledger was written."""

    bytes: int
    rows: int


class Ledger(msgspec.Struct, frozen=True):
    """See the module."""

    version: int = VERSION
    calendar: str = "24/7"
    coverage: tuple[Span, ...] = ()
    files: dict[str, FileFacts] = {}

    def marked(self, where: Iterable[Range], state: State, provenance: Provenance) -> Ledger:
        """Say something of ranges, see :func:`storage.coverage.mark`."""
        return msgspec.structs.replace(self, coverage=coverage.mark(self.coverage, where, state, provenance))

    def forgotten(self, where: Iterable[Range]) -> Ledger:
        """Take back what was said of ranges."""
        return msgspec.structs.replace(self, coverage=coverage.forget(self.coverage, where))


def load(folder: Path) -> Ledger:
    """Read a series' ledger; one that is not there says nothing.

    Raises:
        Damaged: it is no ledger.
        StorageError: a later version of this program wrote it, or it can't be read.
    """
    path = folder / NAME
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Ledger)
    except FileNotFoundError:
        return Ledger()
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise Damaged(path, str(error)) from error
    if found.version > VERSION:
        raise StorageError(f"{path} was written by a later version of marketd (ledger {found.version})")
    return found


def save(folder: Path, ledger: Ledger) -> None:
    """Replace a series' ledger. Raises as :func:`storage.staging.replacing`."""
    with replacing(folder / NAME) as file:
        file.write(msgspec.json.encode(ledger))


def lose(ledger: Ledger, partition: Partition) -> Ledger:
    """Say that a file is no longer there: what was held in its range is missing, what is known to be empty still is."""
    spans = coverage.within(ledger.coverage, partition.start_ns, partition.end_ns)
    held = coverage.ranges(spans, State.COMPLETE, State.UNVERIFIED)
    files = {name: facts for name, facts in ledger.files.items() if name != partition.name}
    return msgspec.structs.replace(ledger.marked(held, State.MISSING, Provenance.OBSERVED), files=files)


def reconcile(ledger: Ledger, sizes: Mapping[Partition, int], contents: Mapping[Partition, Contents]) -> Ledger:
    """Return the ledger as it must be beside the files that are there. Pure.

    The range of a file that is gone is missing, unless another one holds it now; known empty ranges stay. Of rows that
    the ledger has not heard of nobody says that they are all.

    Args:
        sizes: of each visible file, in bytes.
        contents: of those whose size is not the ledger's.
    """
    for name in ledger.files:
        partition = parse_partition(name)
        if partition is not None and not overlapping(sizes, (partition.start_ns, partition.end_ns)):
            ledger = lose(ledger, partition)
    new = [
        span
        for found in contents.values()
        for start_ns, end_ns in found.runs
        for span in coverage.missing(ledger.coverage, start_ns, end_ns)
    ]
    ledger = ledger.marked(new, State.UNVERIFIED, Provenance.OBSERVED)
    rows = {name: facts.rows for name, facts in ledger.files.items()} | {
        partition.name: found.rows for partition, found in contents.items()
    }
    files = {partition.name: FileFacts(size, rows[partition.name]) for partition, size in sizes.items()}
    return msgspec.structs.replace(ledger, files=files)
