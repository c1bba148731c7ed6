"""`marketd cert`: a certificate for a daemon, of an authority of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from marketd.cli.common import daemon_packages, exits

EXAMPLE = "marketd cert --name md.example.com --name 10.0.0.5 --out /etc/marketd/tls"


@exits()
def cert(
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            "-n",
            metavar="NAME",
            help="By which clients reach the daemon, or its IP address; repeatable.",
            show_default="localhost, 127.0.0.1, ::1 and this machine's name",
        ),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="How long it is good.")] = 397,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the files.")] = Path(),
) -> None:
    """Make a certificate and a key for TLS; clients are given ca.pem (`$MARKETD_CA_FILE`), and trust no more than that.

    Makes certificate.pem and key.pem, for `security.certificate` and `security.key`, and, the first time, ca.pem and
    ca-key.pem: run it again before the certificate expires, with the same --out, and clients notice nothing. A daemon
    that runs takes the new one within a second.
    """
    import socket

    with daemon_packages():
        from marketd.security.certificates import make_certificate
    names = name or ["localhost", "127.0.0.1", "::1", socket.gethostname()]
    made = make_certificate(out, names, days)
    print(f'certificate = "{made.certificate}"\nkey = "{made.key}"\n# for clients: {made.authority}')
