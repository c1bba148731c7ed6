"""Whom the client trusts, and what it shows: certificates and tokens, from arguments or the environment."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from marketd.client.address import Address
from marketd.errors import ConfigError
from marketd.tls import client_context

TOKEN_VARIABLE, TOKEN_FILE_VARIABLE, CA_FILE_VARIABLE = "MARKETD_TOKEN", "MARKETD_TOKEN_FILE", "MARKETD_CA_FILE"


def trust_for(address: Address, ca_file: str | None, env: Mapping[str, str] = os.environ) -> ssl.SSLContext | None:
    """Return what verifies the daemon's certificate; None where no TLS is spoken.

    Raises:
        ConfigError: the file of authorities is of no use.
    """
    return client_context(ca_file or env.get(CA_FILE_VARIABLE) or None) if address.tls else None


def token_for(token: str | None, env: Mapping[str, str] = os.environ) -> str | None:
    """Return the token to show: the one that is given, ``$MARKETD_TOKEN``, or what is in ``$MARKETD_TOKEN_FILE``.

    Raises:
        ConfigError: that file can't be read.
    """
    if token is not None:
        return token
    if env.get(TOKEN_VARIABLE):
        return env[TOKEN_VARIABLE]
    path = env.get(TOKEN_FILE_VARIABLE)
    if not path:
        return None
    try:
        return Path(path).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"the file of the token, {path}, can't be read: {reason}") from error


def explain(error: BaseException) -> str:
    """Say why a connection was not made; of TLS in words that tell what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not to be trusted: {error.verify_message}. If it is its operator's own, "
            "`ca_file` or $MARKETD_CA_FILE names the file of the authority (ca.pem of `marketd cert`)"
        )
    if isinstance(error, ssl.SSLError):
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING"):
            return "it does not speak TLS there: leave tls:// away, or take another port"
        return f"TLS failed: {str(error.reason or error).replace('_', ' ').lower()}"
    return str(error) or "nobody answers as a marketd would"
