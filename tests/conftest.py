"""What every test may ask for."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "marketd", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("marketd")

PROJECT = Path(__file__).resolve().parent.parent
SHARED_DATA = PROJECT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded market data that lies beside the checkout, or a skip."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the recorded market data is not beside this checkout: ../shared/data")
    return SHARED_DATA
