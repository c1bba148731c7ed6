"""The contract suite, applied to every store."""

from __future__ import annotations

from functools import partial

import pytest

from storage.client import BACKENDS, open_storage_client
from tests.contract import check_store as contract


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_store(check, backend, tmp_path):
    check(partial(open_storage_client, tmp_path / "store", backend))
