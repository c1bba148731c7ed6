from __future__ import annotations

import platform

import pytest

from marketd.ring import fence


def test_fence_returns():
    fence.fence()


@pytest.mark.skipif(platform.machine() not in fence._MEMBARRIER_NUMBERS, reason="no membarrier number for this machine")
def test_membarrier_is_a_fence_where_there_is_no_locked_instruction():
    try:
        barrier = fence._membarrier_fence(platform.machine())
    except RuntimeError as error:
        pytest.skip(f"this kernel has no membarrier: {error}")
    barrier()


def test_machine_without_a_known_barrier_is_refused():
    with pytest.raises(RuntimeError, match="no memory barrier for pdp11 machines"):
        fence._membarrier_fence("pdp11")
