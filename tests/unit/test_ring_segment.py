from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from marketd.errors import SegmentError
from marketd.ring import layout, segment
from marketd.ring.writer import create_ring
from tests.conftest import PROJECT


def test_segment_is_private_and_all_zeros(tmp_path: Path):
    segment.create(tmp_path / "s", 8192)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    assert (tmp_path / "s").read_bytes() == bytes(8192)


def test_create_replaces_no_existing_file(tmp_path: Path):
    (tmp_path / "s").write_text("somebody's")
    with pytest.raises(SegmentError, match="File exists"):
        segment.create(tmp_path / "s", 8192)
    assert (tmp_path / "s").read_text() == "somebody's"


def test_segment_without_memory_for_it_is_refused_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SegmentError, match="8,192 bytes can't be allocated: No space left"):
        segment.create(tmp_path / "s", 8192)
    assert not (tmp_path / "s").exists()


def test_missing_segment_is_named(tmp_path: Path):
    with pytest.raises(SegmentError, match=r"nowhere can't be opened: No such file"):
        segment.attach(tmp_path / "nowhere", writable=False)


def test_segment_smaller_than_a_header_is_refused(tmp_path: Path):
    (tmp_path / "s").write_bytes(bytes(100))
    with pytest.raises(SegmentError, match="100 bytes: less than a header"):
        segment.attach(tmp_path / "s", writable=False)


def test_symbolic_link_is_not_followed(tmp_path: Path):
    segment.create(tmp_path / "s", 8192)
    (tmp_path / "link").symlink_to(tmp_path / "s")
    with pytest.raises(SegmentError):
        segment.attach(tmp_path / "link", writable=True)


def test_reader_can_not_write(tmp_path: Path):
    segment.create(tmp_path / "s", 8192)
    with segment.attach(tmp_path / "s", writable=False) as memory, pytest.raises(TypeError):
        memory[0] = 1


def test_unlinked_segment_stays_with_who_has_it(tmp_path: Path):
    segment.create(tmp_path / "s", 8192)
    with segment.attach(tmp_path / "s", writable=True) as memory:
        segment.unlink(tmp_path / "s")
        segment.unlink(tmp_path / "s")
        memory[8191] = 7
        assert memory[8191] == 7


def test_second_writer_is_refused_with_the_pid_of_the_first(tmp_path: Path):
    segment.create(tmp_path / "s", 8192)
    first = segment.attach_writer(tmp_path / "s")
    with pytest.raises(SegmentError, match=rf"already has a writer, process {os.getpid()}$"):
        segment.attach_writer(tmp_path / "s")
    # A reader of the same process comes and goes, which would drop a classic POSIX lock.
    segment.attach(tmp_path / "s", writable=False).close()
    with pytest.raises(SegmentError):
        segment.attach_writer(tmp_path / "s")
    first.close()
    segment.attach_writer(tmp_path / "s").close()


def test_killed_writer_frees_the_segment(tmp_path: Path):
    path = tmp_path / "s"
    segment.create(path, 8192)
    code = (
        "import sys; from pathlib import Path; from marketd.ring import segment\n"
        "memory = segment.attach_writer(Path(sys.argv[1])); print('attached', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"attached\n"
        with pytest.raises(SegmentError, match=f"process {writer.pid}$"):
            segment.attach_writer(path)
        writer.kill()
    segment.attach_writer(path).close()


def test_program_that_attaches_and_exits_leaves_the_segment_and_says_nothing(tmp_path: Path):
    """R27: a client that attaches and exits does not unlink the buffer, and no tracker warning is printed at exit."""
    create_ring(tmp_path / "ring", 64)
    code = (
        "import sys; from pathlib import Path; from marketd.ring.reader import RingReader\n"
        "reader = RingReader(Path(sys.argv[1])); print(len(reader.read_nowait()))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "ring")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
    assert (tmp_path / "ring").stat().st_size == layout.HEADER_BYTES + 64 * layout.ROW_BYTES
