"""Who may come in, what each may do, and how much: the file of tokens and the certificate, kept up to date.

The files are looked at every second. What has changed holds for new clients and requests from then on; a client stays
connected unless its own token is gone, is another now, or has run out.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from marketd.clock import SystemClock
from marketd.errors import ConfigError
from marketd.gateway.decode import Refusal
from marketd.periods import DAY_NS
from marketd.rpc.messages import ErrorCode
from marketd.security import tokens
from marketd.security.access import Access
from marketd.security.audit import AuditLog
from marketd.security.doors import Door, demands_token
from marketd.security.quotas import seconds_to_midnight
from marketd.security.scopes import Scope
from marketd.security.server_tls import Certificate
from marketd.security.stamp import ABSENT, UNREAD, stamp_of
from marketd.supervise.messages import SecuritySpec
from marketd.trouble import lacks_descriptors

if TYPE_CHECKING:
    from marketd.gateway.session import Session

LOOK_EVERY_S = 1.0
EXPIRY_WARNING_NS = 14 * DAY_NS  # before a certificate is of no use any more
TELL_EVERY_S = 1.0  # of refusals in the log: who tries a thousand times a second must not fill the disk
HOW_TO_GET_ONE = "ask the daemon's operator for a token: `marketd token create` makes one"

log = structlog.get_logger("marketd.security")


class Guard:
    """What the gateway asks before it does something for somebody.

    Attributes:
        audit: where the operator's actions are noted.
        certificate: for TLS; None for none.

    Raises:
        ConfigError: the file of tokens or the certificate is of no use.
    """

    def __init__(self, spec: SecuritySpec) -> None:
        self.audit = AuditLog(Path(spec.audit_path) if spec.audit_path else None)
        self.certificate = Certificate(spec.certificate, spec.key) if spec.certificate else None
        self._required = spec.require_token
        self._path = Path(spec.tokens_path) if spec.tokens_path else None
        self._everybody = Access()
        self._accesses: dict[str, Access] = {}
        self._stamp = ABSENT
        self._defined = False
        self._told_s = -TELL_EVERY_S
        self._warned_ns = 0
        self._untold = 0
        self._load()

    # --- for requests ---

    def demands(self, door: Door) -> bool:
        """Whether who comes in there needs a token."""
        return demands_token(door, defined=self._defined, required=self._required)

    def admit(self, text: str | None, door: Door, peer: str, *, quietly: bool = False) -> Access:
        """Return what the holder of a token may do, or somebody without.

        Args:
            text: the token, if there is one.
            door: by which its holder comes in.
            peer: from where, for the log.
            quietly: tell nothing to the log: without a token it gets less.

        Raises:
            Refusal: UNAUTHORIZED, the token is no good, or there is none and one is needed.
        """
        if text is None and not self.demands(door):
            return self._everybody
        now_ns = SystemClock().now_ns()
        found = None if text is None else tokens.find(self._tokens(), text)
        if found is None:
            reason = "no token was given" if text is None else "this token is not known here: it may have been revoked"
        elif found.expired(now_ns):
            reason = f"the token {found.name!r} has expired"
        else:
            return self._accesses[found.name]
        if not quietly:
            self._tell_refused("security.unauthorized", peer=peer, door=door, reason=reason)
        raise Refusal(ErrorCode.UNAUTHORIZED, f"{reason}; {HOW_TO_GET_ONE}", closing=True, reason="unauthorized")

    def enter(self, access: Access) -> None:
        """Count a connection. Raises Refusal: LIMIT_EXCEEDED, there are enough, or no bytes are left for today."""
        usage = access.usage
        now_ns = SystemClock().now_ns()
        if usage.spent(now_ns):
            raise spent(access, now_ns)
        if not usage.room_for_connection:
            limit = usage.quotas.connections
            sentence = f"the token {access.name!r} has {limit} connections, as many as it may; close one"
            raise Refusal(ErrorCode.LIMIT_EXCEEDED, sentence, closing=True, reason="quota", limit=limit)
        usage.connections += 1

    def leave(self, access: Access) -> None:
        """Count a connection less."""
        access.usage.connections -= 1

    def check_rate(self, access: Access) -> None:
        """Count a request. Raises Refusal: LIMIT_EXCEEDED, there were too many."""
        wait_s = access.usage.take_request(trio.current_time())
        if wait_s:
            rate = access.usage.quotas.requests_per_s
            raise Refusal(
                ErrorCode.LIMIT_EXCEEDED,
                f"the token {access.name!r} may make {rate:g} requests a second; ask again in {wait_s:.3f} s",
                limit=rate,
                retry_after_ms=round(wait_s * 1000) + 1,
            )

    def check_scope(self, access: Access, action: str, scope: Scope | None, peer: str) -> None:
        """Raise Refusal, FORBIDDEN, if an action is not what the token is for."""
        if access.may(scope):
            return
        told = self._tell_refused("security.forbidden", peer=peer, token=access.name, action=action, scope=scope)
        if told and scope == "admin":
            self.audit.write(action, token=access.name, peer=peer, result="forbidden")
        raise Refusal(
            ErrorCode.FORBIDDEN,
            f"{action} wants the scope {scope}; the token {access.name!r} has {', '.join(sorted(access.scopes))}",
            scope=scope,
            scopes=sorted(access.scopes),
        )

    def _tell_refused(self, event: str, **facts: object) -> bool:
        """Log it, but for what comes so fast that it would fill a disk; return whether it was."""
        now_s = trio.current_time()
        if now_s - self._told_s < TELL_EVERY_S:
            self._untold += 1
            return False
        log.warning(event, **facts, untold=self._untold)
        self._told_s, self._untold = now_s, 0
        return True

    def tell_no_tls(self, address: str, reason: str) -> None:
        """Note that somebody did not manage to speak TLS with us."""
        self._tell_refused("security.tls_failed", peer=address, reason=reason)

    # --- for what changes ---

    def reload(self) -> None:
        """Take in what has changed on the disk. If it is of no use, the log has it and the old stays in force."""
        try:
            if self._path is not None and stamp_of(self._path) != self._stamp:
                self._load()
                log.info("security.tokens_loaded", file=str(self._path), tokens=sorted(self._accesses))
        except ConfigError as error:
            if lacks_descriptors(error.__cause__):
                self._stamp = UNREAD
            else:
                log.error("security.tokens_refused", error=str(error), in_force=sorted(self._accesses))  # noqa: TRY400
        try:
            if self.certificate is not None and self.certificate.refresh():
                log.info("security.certificate_loaded")
        except ConfigError as error:
            if not lacks_descriptors(error.__cause__):
                log.error("security.certificate_refused", error=str(error), in_force="the one before")  # noqa: TRY400

    async def watch(self, sessions: set[Session]) -> None:
        """Keep up with the files, and end the connections of those that may not stay."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            self.reload()
            self.warn_of_expiry(SystemClock().now_ns())
            self.inspect(list(sessions))

    def warn_of_expiry(self, now_ns: int) -> None:
        """Say it once a day when the certificate that is shown expires soon, or has expired."""
        expires_ns = self.certificate.expires_ns if self.certificate is not None else 0
        if expires_ns and expires_ns - now_ns < EXPIRY_WARNING_NS and now_ns - self._warned_ns >= DAY_NS:
            self._warned_ns = now_ns
            log.warning("security.certificate_expires", in_days=round((expires_ns - now_ns) / DAY_NS, 1))

    def inspect(self, sessions: Iterable[Session]) -> None:
        """Count what was sent, and end the connections of those that may not stay."""
        now_ns = SystemClock().now_ns()
        for session in sessions:
            access = session.access
            session.count_bytes()
            if access is None or session.ended:
                continue
            sentence = self._objection(access, session.door, now_ns)
            if sentence:
                session.dismiss("unauthorized", f"{sentence}; {HOW_TO_GET_ONE}")
            elif access.usage.spent(now_ns):
                session.dismiss("quota", str(spent(access, now_ns)))

    def _objection(self, access: Access, door: Door, now_ns: int) -> str:
        if access.token is None:
            return "tokens are wanted here now" if self.demands(door) else ""
        if access.token.expired(now_ns):
            return f"the token {access.name!r} has expired"
        if self._accesses.get(access.name) is not access:
            return f"the token {access.name!r} was revoked, or replaced"
        return ""

    def _tokens(self) -> list[tokens.Token]:
        return [access.token for access in self._accesses.values() if access.token is not None]

    def _load(self) -> None:
        """Read the file. A token that is as it was keeps its counts. One that is gone is gone with the whole file, too,
        and its address then stays shut: that a file was removed is no reason to let everybody in."""
        if self._path is None:
            return
        self._stamp = stamp_of(self._path)
        found = tokens.load(self._path)
        self._defined = self._defined or found is not None
        old = self._accesses
        self._accesses = {
            token.name: old[token.name] if token.name in old and old[token.name].token == token else Access(token)
            for token in found or ()
        }


def spent(access: Access, now_ns: int) -> Refusal:
    """Say that a token has had its bytes for today."""
    limit = access.usage.quotas.bytes_per_day
    wait_s = seconds_to_midnight(now_ns)
    return Refusal(
        ErrorCode.LIMIT_EXCEEDED,
        f"the token {access.name!r} has had its {limit} bytes of today; ask again in {wait_s:.0f} s, at midnight UTC",
        closing=True,
        reason="quota",
        limit=limit,
        retry_after_ms=round(wait_s * 1000),
    )
