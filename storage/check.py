"""Reading all of a series to see what is wrong with it. Changes nothing."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from storage import files, ledger
from storage.contents import read_contents
from storage.facts import Finding
from storage.files import Damaged
from storage.layout import Partition, Series, visible
from storage.ledger import NAME as LEDGER
from storage.reader import list_partitions, path_of
from storage.schema import key_columns
from storage.staging import TEMPORARY
from storage.validate import first_problem


def check_file(path: Path, series: Series, partition: Partition) -> None:
    """Read a file to its end, a row group at a time.

    Raises:
        Damaged: it can't be read, or holds rows that can't be, are out of order, there twice, or of another time.
    """
    schema = series.schema
    last: pl.DataFrame | None = None
    for group in files.read_groups(path, schema):
        times = group[schema.time]
        if problem := first_problem(group, series):
            raise Damaged(path, f"{problem.reason}, in the row of {problem.time_ns} ns")
        if times[0] < partition.start_ns or times[-1] >= partition.end_ns:
            raise Damaged(path, f"it has rows that are not of {partition.name}")
        joint = group if last is None else pl.concat([last, group])
        if not joint.select(schema.key).equals(joint.select(schema.key).sort(schema.key)):
            raise Damaged(path, "its rows are out of order")
        if joint.select(key_columns(schema)).is_duplicated().any():
            raise Damaged(path, "it has rows twice")
        last = group.tail(1)


def check_folder(folder: Path, series: Series) -> list[Finding]:
    """Say what is wrong with a series; nothing is if the list is empty, or there is no series.

    Raises:
        StorageError: it can't be read, or a later version of this program wrote it.
    """
    findings = []
    partitions = list_partitions(folder)
    shown = visible(partitions)
    whole: list[Partition] = []
    for partition in shown:
        path = path_of(folder, partition)
        try:
            check_file(path, series, partition)
            whole.append(partition)
        except FileNotFoundError:
            continue  # merged or trimmed meanwhile
        except Damaged as damage:
            findings.append(Finding(series, path, damage.reason, repairable=True))
    for hidden in sorted(set(partitions) - set(shown)):
        findings.append(Finding(series, path_of(folder, hidden), "left by a merge that was killed", repairable=True))
    return findings + (_check_ledger(folder, series, whole) + _check_rest(folder, series) if folder.is_dir() else [])


def _check_ledger(folder: Path, series: Series, whole: list[Partition]) -> list[Finding]:
    try:
        found = ledger.load(folder)
    except Damaged as damage:
        return [Finding(series, damage.path, damage.reason, repairable=True)]
    sizes = {partition: path_of(folder, partition).stat().st_size for partition in whole}
    changed = [p for p in whole if p.name not in found.files or found.files[p.name].bytes != sizes[p]]
    contents = {partition: read_contents(path_of(folder, partition), series) for partition in changed}
    if found == ledger.reconcile(found, sizes, contents):
        return []
    return [Finding(series, folder / LEDGER, "does not fit the files", repairable=True)]


def _check_rest(folder: Path, series: Series) -> list[Finding]:
    findings = []
    known = {path_of(folder, partition).name for partition in list_partitions(folder)}
    for path in sorted(folder.iterdir()):
        if path.name.endswith(TEMPORARY):
            findings.append(Finding(series, path, "left by a writer that was killed", repairable=True))
        elif path.name not in known | {LEDGER} and not path.name.startswith("."):
            findings.append(Finding(series, path, "is none of the store's files", repairable=False))
    return findings
