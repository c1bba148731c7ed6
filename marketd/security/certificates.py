"""Makes certificates: an authority of one's own, and what it says of a daemon."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from marketd.errors import ConfigError

AUTHORITY_DAYS = 3650
HOST_PATTERN = r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?"
BEGINS_BEFORE = datetime.timedelta(hours=1)  # for clients whose clocks are behind


class Files(NamedTuple):
    """Where they are: PEM, the keys of mode 0600."""

    certificate: Path
    key: Path
    authority: Path
    authority_key: Path


def make_certificate(folder: Path, names: list[str], days: int) -> Files:
    """Make a certificate for a server of these names and addresses; and an authority, if the folder has none.

    Raises:
        ConfigError: the folder can't be written to, a name is none, or the authority there is of no use.
    """
    folder = folder.absolute()
    files = Files(*(folder / name for name in ("certificate.pem", "key.pem", "ca.pem", "ca-key.pem")))
    alternatives = x509.SubjectAlternativeName([_name(text) for text in names])
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority, authority_key = _authority(files)
        key = ec.generate_private_key(ec.SECP256R1())
        begins, ends = _period(days)
        if ends > authority.not_valid_after_utc:
            raise ConfigError(
                f"{files.authority} is good until {authority.not_valid_after_utc:%Y-%m-%d} only: ask for fewer --days, "
                "or remove it and ca-key.pem, and give all clients the new one"
            )
        made = (
            x509.CertificateBuilder()
            .subject_name(_subject(f"marketd {names[0]}"[:64]))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(alternatives, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
            .sign(authority_key, hashes.SHA256())
        )
        _write(files.key, _private(key), 0o600)
        _write(files.certificate, made.public_bytes(Encoding.PEM), 0o644)
    except OSError as error:
        raise ConfigError(f"{folder}: can't be written to: {error.strerror}") from error
    return files


def _authority(files: Files) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if files.authority.exists() or files.authority_key.exists():
        return _load_authority(files)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject("marketd authority")
    begins, ends = _period(AUTHORITY_DAYS)
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(files.authority_key, _private(key), 0o600)
    _write(files.authority, made.public_bytes(Encoding.PEM), 0o644)
    return made, key


def _load_authority(files: Files) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(files.authority.read_bytes())
        key = load_pem_private_key(files.authority_key.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise ConfigError(f"{error.filename} is missing beside the other file of the authority: remove both") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{files.authority} and {files.authority_key} can't be used: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        raise ConfigError(f"{files.authority} and {files.authority_key} do not belong together")
    return certificate, key


def _name(text: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(text))
    if not re.fullmatch(HOST_PATTERN, text):
        raise ConfigError(f"--name {text!r} is neither a name of a machine nor an IP address")
    return x509.DNSName(text)


def _subject(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _period(days: int) -> tuple[datetime.datetime, datetime.datetime]:
    now = datetime.datetime.now(datetime.UTC)
    return now - BEGINS_BEFORE, now + datetime.timedelta(days=days)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
