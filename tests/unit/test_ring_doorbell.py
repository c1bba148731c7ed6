from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from marketd.errors import SegmentError
from marketd.ring.doorbell import SLOTS, Bell, Bells, MemoryBell, create_bells, unlink_bells
from tests.conftest import PROJECT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_bells(tmp_path / "bells")
    return tmp_path / "bells"


class Box:
    """Something a reader waits for."""

    full = False

    def ready(self) -> bool:
        return self.full


async def test_sleeping_readers_are_all_woken(path: Path):
    """Here and below without the second look, so that a wake-up that is lost hangs the test."""
    bells, box = Bells(path), Box()
    sleepers = [Bell(path, second_look=False) for _ in range(3)]
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for bell in sleepers:
                nursery.start_soon(bell.wait, box.ready)
            await trio.testing.wait_all_tasks_blocked()
            box.full = True
            bells.ring()
    assert [(bell.slot, bell.sleeps, bell.late) for bell in sleepers] == [(0, 1, 0), (1, 1, 0), (2, 1, 0)]


def _none_left(*_: object) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_writer_without_descriptors_goes_on_and_the_reader_finds_the_data_by_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    bells, bell, box = Bells(path), Bell(path), Box()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bell.wait, box.ready)
            await trio.testing.wait_all_tasks_blocked()
            monkeypatch.setattr(os, "open", _none_left)
            box.full = True
            bells.ring()
            monkeypatch.undo()
    assert bell.late == 1


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("call", ["open", "mkfifo"])
def test_reader_that_can_not_open_its_bell_says_so_and_leaves_the_slot_free(
    call: str, path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = open_files()
    monkeypatch.setattr(os, call, _none_left)
    with pytest.raises(SegmentError, match="Too many open files"):
        Bell(path)
    monkeypatch.undo()
    assert open_files() == before
    bell = Bell(path)
    assert bell.slot == 0
    bell.close()


async def test_reader_that_finds_data_does_not_sleep(path: Path):
    bell = Bell(path)
    await bell.wait(lambda: True)
    assert bell.sleeps == 0


async def test_data_published_while_falling_asleep_is_found(path: Path):
    bell = Bell(path, second_look=False)
    answers = iter([False, True])  # the writer looked at the board just before the reader marked it
    with trio.fail_after(10):
        await bell.wait(lambda: next(answers))


async def test_ring_without_data_does_not_end_the_wait(path: Path):
    bells, box, bell = Bells(path), Box(), Bell(path, second_look=False)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bell.wait, box.ready)
            for _ in range(3):
                await trio.testing.wait_all_tasks_blocked()
                bells.ring()
                await until(lambda sleeps=bell.sleeps: bell.sleeps > sleeps)
            box.full = True
            bells.ring()


async def test_writer_that_died_before_ringing_is_noticed_all_the_same(path: Path):
    box, bell = Box(), Bell(path)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bell.wait, box.ready)
            await trio.testing.wait_all_tasks_blocked()
            box.full = True
    assert bell.late == 1


async def test_successor_of_a_writer_wakes_who_fell_asleep_before(path: Path):
    Bells(path).close()
    box, bell = Box(), Bell(path, second_look=False)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bell.wait, box.ready)
            await trio.testing.wait_all_tasks_blocked()
            box.full = True
            Bells(path).ring()


async def test_cancelled_wait_leaves_the_reader_awake_and_the_bell_usable(path: Path):
    bells, box, bell = Bells(path), Box(), Bell(path, second_look=False)
    with trio.move_on_after(0.01):
        await bell.wait(box.ready)
    bells.ring()
    with pytest.raises(BlockingIOError):
        os.read(bell._fifo, 1)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bell.wait, box.ready)
            await trio.testing.wait_all_tasks_blocked()
            box.full = True
            bells.ring()


async def test_two_tasks_on_one_bell_are_refused(path: Path):
    bell = Bell(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.wait, lambda: False)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await bell.wait(lambda: True)
        nursery.cancel_scope.cancel()


async def test_reader_that_does_not_wake_up_is_rung_once(path: Path):
    bells, box, bell = Bells(path), Box(), Bell(path, second_look=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.wait, box.ready)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(100):
            bells.ring()
        assert os.read(bell._fifo, 1000) == b"\0"
        nursery.cancel_scope.cancel()


async def test_reader_killed_in_its_sleep_hurts_nobody_and_frees_its_slot(path: Path):
    code = (
        "import sys, trio; from pathlib import Path; from marketd.ring.doorbell import Bell\n"
        "bell = Bell(Path(sys.argv[1]))\n"
        "def ready():\n"
        "    bell.sleeps and print('asleep', bell.slot, flush=True)\n"
        "trio.run(bell.wait, ready)"
    )
    bells = Bells(path)
    for _ in range(2):  # the second time, the writer still has the FIFO open
        with subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=PROJECT, stdout=subprocess.PIPE) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"asleep 0\n"
            reader.kill()
        bells.ring()
    box, bell = Box(), Bell(path, second_look=False)
    assert bell.slot == 0
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bell.wait, box.ready)
            await trio.testing.wait_all_tasks_blocked()
            box.full = True
            bells.ring()


def test_slots_are_given_back_and_a_full_board_is_refused(path: Path):
    held = [Bell(path) for _ in range(SLOTS)]
    with pytest.raises(SegmentError, match="all 64 doorbells"):
        Bell(path)
    held[7].close()
    held[7].close()
    assert Bell(path).slot == 7


def test_file_in_the_place_of_a_fifo_is_refused(path: Path):
    path.with_name("bells.0").write_text("not a FIFO")
    with pytest.raises(SegmentError, match=r"bells\.0 is not a FIFO of ours"):
        Bell(path)


def test_unlinking_leaves_nothing(path: Path):
    bells = [Bell(path) for _ in range(3)]
    unlink_bells(path)
    unlink_bells(path)
    assert list(path.parent.iterdir()) == []
    for bell in bells:
        bell.close()


async def test_bell_in_memory_wakes_its_sleepers(autojump_clock: trio.testing.MockClock):
    bell, box = MemoryBell(), Box()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.wait, box.ready)
        nursery.start_soon(bell.wait, box.ready)
        await trio.testing.wait_all_tasks_blocked()
        bell.ring()
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 2
        box.full = True
        bell.ring()


async def until(condition) -> None:
    """Return once the condition holds; the caller's deadline says when it is too late."""
    while not condition():
        await trio.sleep(0.001)
