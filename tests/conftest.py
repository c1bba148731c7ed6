"""What every test may ask for."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "marketd", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("marketd")

# A shell starts what it runs in the background with SIGINT ignored, nohup ignores SIGHUP, and so would everything that
# the tests start: neither Ctrl-C nor a closed terminal could be tested.
if threading.current_thread() is threading.main_thread():
    for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(_number) is signal.SIG_IGN:
            signal.signal(_number, _handler)

# pytest's workers have 80 there, and then so would the commands that the tests start.
os.environ.pop("COLUMNS", None)

PROJECT = Path(__file__).resolve().parent.parent
SHARED_DATA = PROJECT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded market data that lies beside the checkout, or a skip."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the recorded market data is not beside this checkout: ../shared/data")
    return SHARED_DATA
