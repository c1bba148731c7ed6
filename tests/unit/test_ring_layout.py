from __future__ import annotations

import numpy as np
import pytest

from marketd.model import Kind
from marketd.ring import layout

ROW = (1, 2, 3, 4, 5, 6, -1, 8, 9.5, 10.5, 11.5, 12.5)


def test_packed_row_reads_back_through_the_dtype():
    (row,) = np.frombuffer(layout.PACK.pack(*ROW), layout.ROW)
    assert row.tolist() == ROW


def test_packed_integers_read_back_through_the_dtype_of_gaps():
    (row,) = np.frombuffer(layout.PACK_INTEGERS.pack(*ROW[:8], 1 << 60, 10, 11, -12), layout.GAP)
    assert row.tolist() == (*ROW[:8], 1 << 60, 10, 11, -12)


@pytest.mark.parametrize("dtype", [layout.ROW, *layout.BY_KIND.values()])
def test_every_kind_of_row_has_the_same_bytes(dtype: np.dtype[np.void]):
    assert dtype.itemsize == layout.ROW_BYTES == 72
    assert layout.ROW_BYTES % 8 == 0  # slots stay aligned for whole-word stores


@pytest.mark.parametrize("dtype", layout.BY_KIND.values())
def test_times_are_integers(dtype: np.dtype[np.void]):
    """R28: `time` dtype is int64-compatible; nothing is ever a float timestamp."""
    assert dtype.fields is not None
    assert [dtype.fields[name][0] for name in dtype.fields if name.endswith("_ns")] == [
        np.dtype("<i8") for name in dtype.fields if name.endswith("_ns")
    ]
    assert {"event_ns", "received_ns"} <= set(dtype.fields)


def test_every_kind_has_a_dtype_and_a_name():
    assert set(layout.BY_KIND) == set(layout.KIND_NAMES) == set(Kind)


def test_changed_dtype_hash_means_a_new_layout_version():
    assert (layout.VERSION, layout.dtype_hash()) == (1, 16888616239355548036)
