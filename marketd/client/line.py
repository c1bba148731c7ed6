"""The blocking shell: one connection, made again whenever it breaks.

Nothing is read in the background. Whoever waits, for an answer or for a frame, reads for everybody meanwhile; so a
program that is busy elsewhere lets the server wait, and what is not read stays in the daemon's ring.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any

from marketd.client.address import Address
from marketd.client.calls import Call
from marketd.client.connection import Connection
from marketd.client.errors import CannotConnect, ConnectionLost, DeadlineExceeded, ProtocolError, RequestError
from marketd.client.protocol import RETRY_S, ClientProtocol
from marketd.client.reconnect import Reconnect
from marketd.client.trust import explain

# An attempt to connect again gets this long even if its caller's deadline is sooner, or it might never succeed.
DIAL_S_MIN = 2.0


class Line:
    """Moves bytes between a protocol and the daemon, while somebody waits."""

    def __init__(
        self,
        target: Address,
        protocol: ClientProtocol,
        reconnect: Reconnect,
        timeout_s: float,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.address = str(target)
        self._trust = trust
        self.protocol = protocol
        self._target = target
        self._reconnect = reconnect
        self._timeout_s = timeout_s
        self._connection: Connection | None = None
        self._retried_s = 0.0
        self._dial_s: float | None = None  # when to dial again
        self._closed = False

    def connect_first(self) -> None:
        """Connect and say hello.

        Raises:
            CannotConnect: there is no daemon.
            RequestError: there is one that does not want us.
        """
        try:
            self._dial(time.monotonic() + self._timeout_s)
        except (OSError, ProtocolError) as error:
            raise CannotConnect(self.address, explain(error)) from error

    def finish(self, call: Call, timeout_s: float) -> Any:  # noqa: ANN401 - see Call.result
        """Wait for a call's answer and return it. Raises what :meth:`wait` and :meth:`Call.result` do."""
        self.wait(call, lambda: call.done, time.monotonic() + timeout_s)
        return call.result()

    def wait(self, call: Call, condition: Callable[[], bool], deadline_s: float) -> None:
        """Return when the condition is met.

        Raises:
            DeadlineExceeded: it was not in time, on the monotonic clock. The call is forgotten then.
            ConnectionLost: the connection broke, and there is to be no other.
        """
        try:
            while not condition() and time.monotonic() < deadline_s:
                self.pump(deadline_s)
        except BaseException:
            self.protocol.forget(call)
            raise
        if not condition():
            self.protocol.forget(call)
            raise DeadlineExceeded(f"no answer to {call.method} from {self.address} in time")

    def pump(self, deadline_s: float | None) -> None:
        """Send what is to be sent; wait for bytes, until the deadline at most, and take them.

        Returns also when the connection broke, or was made again: whoever waits looks whether that is what it needs.

        Raises:
            ConnectionLost: and it is not made again.
            RequestError: it is, but the daemon does not want us any more.
        """
        if self._closed:
            raise ConnectionLost("this client is closed")
        if self._connection is None:
            self._redial(deadline_s)
            return
        try:
            self._retry_refused()
            self._connection.send(self.protocol.data_to_send())
            self.protocol.receive_data(self._connection.receive(self._patience_s(deadline_s)))
        except (OSError, ProtocolError) as error:
            self._drop(str(error))
        except BaseException:
            self.interrupted()
            raise

    def flush(self) -> None:
        """Send what is to be sent, if that is possible."""
        if self._connection is not None:
            try:
                self._connection.send(self.protocol.data_to_send())
            except OSError as error:
                self._drop(str(error))

    def interrupted(self) -> None:
        """Clean up after an exception that may have come between any two steps: Ctrl-C's.

        What was received may be half noted down. So it is all forgotten, and comes again with the next connection,
        which is made at the next use: the daemon is not to blame.
        """
        self.protocol.rewind()
        self._drop("interrupted")
        self._dial_s = time.monotonic()

    def close(self) -> None:
        """Hang up for good."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.protocol.fail(ConnectionLost("this client is closed"))

    def _dial(self, deadline_s: float) -> None:
        """Connect and say hello.

        Raises:
            OSError: nobody is there, or nobody answers in time.
            ProtocolError: it is no marketd that is there.
            RequestError: it is one, and it does not want us.
        """
        try:
            timeout_s = max(0.001, deadline_s - time.monotonic())
            self._connection = connection = Connection(
                self._target, timeout_s, self.protocol.receive_bytes, self._trust
            )
            hello = self.protocol.connection_made()
            connection.send(self.protocol.data_to_send())
            while not hello.done:
                self.protocol.receive_data(connection.receive_by(deadline_s))
            connection.beat(hello.result().heartbeat_s)
        except BaseException as error:
            self._drop(str(error))
            raise
        self._reconnect.made(time.monotonic())

    def _redial(self, deadline_s: float | None) -> None:
        """Wait until it is time for the next attempt, and make it; only wait if the deadline comes first."""
        now_s = time.monotonic()
        try:
            if self._dial_s is None:
                self._dial_s = now_s + self._reconnect.delay_s(now_s)
            until_s = self._dial_s if deadline_s is None else min(self._dial_s, deadline_s)
            time.sleep(max(0.0, until_s - now_s))
            if until_s == self._dial_s:
                self._dial_s = None
                allowed_s = self._timeout_s if deadline_s is None else max(DIAL_S_MIN, deadline_s - until_s)
                self._dial(time.monotonic() + min(self._timeout_s, allowed_s))
        except (ConnectionLost, RequestError) as error:
            self.protocol.fail(error)
            raise
        except (OSError, ProtocolError):
            return  # `_drop` has noted it, and the next call of `delay_s` decides whether to go on

    def _drop(self, reason: str) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._reconnect.lost(time.monotonic(), reason)
        self.protocol.connection_lost(reason)

    def _retry_refused(self) -> None:
        if self.protocol.refused and time.monotonic() - self._retried_s >= RETRY_S:
            self._retried_s = time.monotonic()
            self.protocol.retry()

    def _patience_s(self, deadline_s: float | None) -> float | None:
        wait_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        if self.protocol.refused:
            return RETRY_S if wait_s is None else min(wait_s, RETRY_S)
        return wait_s
