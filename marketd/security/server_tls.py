"""The server's side of TLS: a context from two files, which is made anew when they change."""

from __future__ import annotations

import ssl
import warnings
from pathlib import Path

from marketd.clock import SECOND_NS
from marketd.errors import ConfigError
from marketd.security.stamp import UNREAD, Stamp, stamp_of
from marketd.trouble import lacks_descriptors

Stamps = tuple[Stamp, Stamp]


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return a context that shows this certificate, TLS 1.2 or later.

    Args:
        certificate: PEM file of the certificate, and of those between it and the authority's.
        key: PEM file of its private key, without a password.

    Raises:
        ConfigError: one can't be read, or they do not go together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Without renegotiation a write never has to read first. TLS 1.3 has none anyway.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    for path, name in ((certificate, "certificate"), (key, "key")):
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise ConfigError(
                f"security.{name}: {path} can't be read: {error.strerror}; `marketd cert` makes a certificate and a key"
            ) from error
    try:
        with warnings.catch_warnings(action="ignore"):
            context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"security.certificate and security.key: {certificate} and {key} can't be used: {_reason(error)}; they "
            "must be PEM files that belong together, the key without a password"
        ) from error
    return context


def expires_ns(certificate: str) -> int:
    """Return when the first of a PEM file's certificates expires, in ns since the epoch; 0 if that can't be read."""
    from cryptography import x509  # here: a gateway without TLS has no use for it

    try:
        found = x509.load_pem_x509_certificates(Path(certificate).read_bytes())
    except (OSError, ValueError):  # it was good enough for OpenSSL, which has read it before
        return 0
    return min(round(each.not_valid_after_utc.timestamp()) * SECOND_NS for each in found)


def _no_password() -> str:
    raise ValueError("the key has a password")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error).replace("_", " ").lower()


class Certificate:
    """A certificate and its key, as they are on the disk.

    Attributes:
        context: for new connections; those that there are keep theirs.
        expires_ns: when what :attr:`context` shows expires, see :func:`expires_ns`.

    Raises:
        ConfigError: as of :func:`server_context`.
    """

    def __init__(self, certificate: str, key: str) -> None:
        self._files = (certificate, key)
        self._tried = self._stamps()
        self.context = server_context(certificate, key)
        self.expires_ns = expires_ns(certificate)

    def refresh(self) -> bool:
        """Look whether the files have changed, and say whether there is a new context.

        Raises:
            ConfigError: they are of no use now: the old ones stay in force, and what there is is looked at again when
                it changes once more: who replaces two files may have replaced one so far.
        """
        stamps = self._stamps()
        if stamps == self._tried:
            return False
        try:
            self.context = server_context(*self._files)
        except ConfigError as error:
            self._tried = (UNREAD, UNREAD) if lacks_descriptors(error.__cause__) else stamps
            raise
        self._tried = stamps
        self.expires_ns = expires_ns(self._files[0])
        return True

    def _stamps(self) -> Stamps:
        certificate, key = self._files
        return stamp_of(Path(certificate)), stamp_of(Path(key))
