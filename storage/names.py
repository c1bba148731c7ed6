"""Names of instruments as names of folders, and back. Pure.

A folder's name is the instrument's, percent-encoded: ``btc%2Fusdt.spot.binance``. Letters, digits and ``.-_~`` stay as
they are, so each name has one folder and each folder one name.

Some venues do not say what an instrument is paid with where that is a fiat currency, and may begin to: then
``mnq.cme.ib`` and ``mnq/usd.cme.ib`` are one instrument. A folder that was made under the short name belongs to the
first full one that is written to it, and is from then on known by that; another currency gets a folder of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote

from marketd import fqme
from marketd.errors import StorageError

FOLDER_BYTES_MAX = 255  # NAME_MAX: pathconf(3)
QUARANTINE = "quarantine"
LOG = "log"  # of ticks, see `ticklog.py`

_ISO_4217 = """
aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd btn bwp byn bzd cad cdf chf clp
cny cop crc cup cve czk djf dkk dop dzd egp ern etb eur fjd fkp gbp gel ghs gip gmd gnf gtq gyd hkd hnl htg huf idr
ils inr iqd irr isk jmd jod jpy kes kgs khr kmf kpw krw kwd kyd kzt lak lbp lkr lrd lsl lyd mad mdl mga mkd mmk mnt
mop mru mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd
scr sdg sek sgd shp sle sos srd ssp stn svc syp szl thb tjs tmt tnd top try ttd twd tzs uah ugx usd uyu uzs ves vnd
vuv wst xaf xcd xof xpf yer zar zmw zwg
"""
FIATS = frozenset(_ISO_4217.split())


def folder_of(name: str) -> str:
    """Return the folder's name of an instrument, which may be written in any case.

    Raises:
        StorageError: it is no instrument's name, or one that no folder can have.
    """
    parsed = parse(name)
    folder = quote(str(parsed), safe="")
    if len(folder) > FOLDER_BYTES_MAX or parsed.backend == QUARANTINE:
        raise StorageError(f"an instrument of the name {name!r} can't be stored")
    return folder


def folder_start(name: fqme.Fqme) -> str:
    """Return what the folders of both forms of a name begin with."""
    return quote(name.dst, safe="")


def name_of(folder: str) -> str | None:
    """Return the instrument that a folder is named after; None if it is no such folder."""
    name = unquote(folder)
    try:
        return name if folder_of(name) == folder else None
    except StorageError:
        return None


def parse(name: str) -> fqme.Fqme:
    """Read an instrument's name.

    Raises:
        StorageError: it is none.
    """
    try:
        return fqme.parse(name)
    except ValueError as error:
        raise StorageError(str(error)) from error


def resolve(name: str, known: Mapping[str, str]) -> str:
    """Return the folder of an instrument: that which it or its other form has, else the one to be made.

    Args:
        known: folders by the name that each is known by.

    Raises:
        StorageError: see :func:`folder_of`; or the name does not say what is paid with, and several are stored.
    """
    wanted = parse(name)
    if str(wanted) in known and wanted.src:
        return known[str(wanted)]
    if wanted.src in FIATS:
        return known.get(str(wanted._replace(src="")), folder_of(name))
    if wanted.src:
        return folder_of(name)
    full = [other for other in known if is_full_form(other, str(wanted))]
    if str(wanted) in known:
        full.append(str(wanted))
    if len(full) > 1:
        raise StorageError(f"{name} may be {' or '.join(sorted(full))}: say which")
    return known[full[0]] if full else folder_of(name)


def is_full_form(name: str, short: str) -> bool:
    """Whether a name is that of ``short``, with the fiat currency that it is paid with."""
    parsed = parse(name)
    return parsed.src in FIATS and str(parsed._replace(src="")) == short
