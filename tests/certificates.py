"""Certificates for servers on loopback: a good one, and each kind of bad one."""

from __future__ import annotations

import functools
import ssl
from datetime import UTC, datetime
from pathlib import Path

import trustme

NAMES = ("localhost", "127.0.0.1")


@functools.cache
def authority() -> trustme.CA:
    """The one that clients are told to trust."""
    return trustme.CA()


def ca_file(folder: Path) -> str:
    """Write the authority's certificate to a file and return its name."""
    path = folder / "ca.pem"
    authority().cert_pem.write_to_path(path)
    return str(path)


@functools.cache
def good() -> ssl.SSLContext:
    """A server that is who it says."""
    return _context(authority().issue_cert(*NAMES))


@functools.cache
def wrong_name() -> ssl.SSLContext:
    """A server that is somebody else."""
    return _context(authority().issue_cert("elsewhere.example"))


@functools.cache
def expired() -> ssl.SSLContext:
    """A server that was who it says, until 2020."""
    return _context(authority().issue_cert(*NAMES, not_after=datetime(2020, 1, 1, tzinfo=UTC)))


@functools.cache
def untrusted() -> ssl.SSLContext:
    """A server whose authority is its own."""
    return _context(trustme.CA().issue_cert(*NAMES))


def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context
