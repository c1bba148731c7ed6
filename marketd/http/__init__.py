"""HTTP: a request with a deadline (`client.py`), what comes of it (`messages.py`), when to repeat it (`retry.py`)."""

from marketd.http.client import HttpClient
from marketd.http.messages import (
    Headers,
    HttpBadResponse,
    HttpConnectError,
    HttpError,
    HttpStatusError,
    HttpTimeout,
    HttpTlsError,
    HttpTooLarge,
    Response,
)
from marketd.http.retry import (
    DEFAULT_POLICY,
    ONCE,
    Fine,
    GiveUp,
    Retry,
    RetryPolicy,
    Verdict,
    decide,
    request_with_retry,
    retry_after_s,
)

__all__ = [
    "DEFAULT_POLICY",
    "ONCE",
    "Fine",
    "GiveUp",
    "Headers",
    "HttpBadResponse",
    "HttpClient",
    "HttpConnectError",
    "HttpError",
    "HttpStatusError",
    "HttpTimeout",
    "HttpTlsError",
    "HttpTooLarge",
    "Response",
    "Retry",
    "RetryPolicy",
    "Verdict",
    "decide",
    "request_with_retry",
    "retry_after_s",
]
