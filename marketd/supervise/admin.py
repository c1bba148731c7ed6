"""What an operator may ask of a running daemon: its services, its clients, its logs, its configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

import msgspec
import structlog
import trio

from marketd.errors import ActorError, RequestRefused
from marketd.rpc.messages import (
    ClientsResult,
    ClientStatus,
    KickParams,
    KickResult,
    LogLevelParams,
    LogLevelResult,
    ReloadResult,
    ServiceParams,
    ServiceResult,
    ServicesResult,
)
from marketd.supervise.messages import GatewayKick
from marketd.supervise.reloader import settle
from marketd.supervise.specs import gateway_of

if TYPE_CHECKING:
    from marketd.supervise.link import Link
    from marketd.supervise.reloader import Reloader
    from marketd.supervise.service import Service
    from marketd.supervise.supervisor import Supervisor

KICK_TIMEOUT_S = 3.0
ANSWER_S = 0.2  # for the answer to reach the client before its gateway goes
ROOT = "supervisor"

Action = Literal["restart", "stop", "start", "cancel"]
ACTIONS: tuple[Action, ...] = ("restart", "stop", "start", "cancel")

log = structlog.get_logger("marketd.supervise.admin")


class Admin:
    """See the module. Every refusal is a :class:`RequestRefused`, whose text is for the operator."""

    def __init__(self, supervisor: Supervisor, reloader: Reloader) -> None:
        self._supervisor = supervisor
        self._reloader = reloader

    def register(self, link: Link, gateway: Service) -> None:
        """Let the clients of a gateway ask."""
        for action in ACTIONS:
            link.handle(f"services.{action}", ServiceParams, partial(self._act_for, gateway, action))
        link.handle("services.list", None, self.services)
        link.handle("clients.list", None, self.clients)
        link.handle("clients.kick", KickParams, self.kick)
        link.handle("log.level", LogLevelParams, self.log_level)
        link.handle("reload", None, self.reload)

    # --- services ---

    async def services(self) -> ServicesResult:
        """All services, as they stand."""
        return ServicesResult([service.status() for service in self._supervisor.services])

    async def _act_for(self, gateway: Service, action: Action, params: ServiceParams) -> ServiceResult:
        service = self._find(params.service)
        if service is gateway and action != "start":
            # The asker would never hear of it.
            self._check(action, service)
            self._supervisor.in_background(partial(self._act_soon, action, service))
            return ServiceResult(msgspec.structs.replace(service.status(), detail=f"{action} is under way"))
        await self.act(action, service)
        return ServiceResult(service.status())

    async def act(self, action: Action, service: Service) -> None:
        """Do it; returns when it is done: with a stop, when the actor is gone; with a start, when another is there."""
        self._check(action, service)
        log.info(f"service.{action}", service=service.name)
        does: dict[Action, Callable[[], Awaitable[None]]] = {
            "stop": partial(self._stop, service),
            "cancel": partial(service.cancel, "cancelled by request"),
            "start": partial(self._start, service),
            "restart": partial(self._restart, service),
        }
        await does[action]()

    async def _stop(self, service: Service) -> None:
        feed = next((feed for feed in self._supervisor.feeds.values() if feed.service is service), None)
        await (service if feed is None else feed).stop("stopped by request")

    async def _start(self, service: Service) -> None:
        await self._supervisor.start(service)
        await settle([service])

    async def _restart(self, service: Service) -> None:
        if service.wanted:
            service.restart()
        else:
            await self._supervisor.start(service)
        await settle([service])

    async def _act_soon(self, action: Action, service: Service) -> None:
        await trio.sleep(ANSWER_S)
        try:
            await self.act(action, service)
        except RequestRefused as error:  # it is the last gateway by now, say
            log.warning("service.refused", service=service.name, action=action, error=str(error))

    def _check(self, action: Action, service: Service) -> None:
        if self._supervisor.stopping.is_set():
            raise RequestRefused("unavailable", "the daemon is stopping")
        if action in ("stop", "cancel"):
            self._refuse_last_gateway(service)

    def _find(self, name: str) -> Service:
        """Find a service by its name; a feed's by the feed's name as well."""
        services = {service.name: service for service in self._supervisor.services}
        found = services.get(name) or services.get(f"feed.{name}")
        if found is not None:
            return found
        if name == ROOT:
            text = "the supervisor is the daemon itself: it stops at SIGTERM, and `marketd run` starts it"
            raise RequestRefused("invalid_params", text)
        raise RequestRefused("unknown_service", f"there is no service {name!r}; there are: {', '.join(services)}")

    def _refuse_last_gateway(self, service: Service) -> None:
        gateways = self._supervisor.gateways
        if service in gateways and not any(each.wanted for each in gateways if each is not service):
            text = f"{service.name} is the only gateway that runs: nobody could ask for it again. It can be restarted"
            raise RequestRefused("invalid_params", text)

    # --- clients ---

    async def clients(self) -> ClientsResult:
        """All clients of all gateways, as they stood a moment ago."""
        reports = self._supervisor.gateway_reports().values()
        return ClientsResult([client for report in reports for client in report.clients])

    async def kick(self, params: KickParams) -> KickResult:
        """Let the gateway that has it send a client away."""
        number = gateway_of(params.client)
        unknown = RequestRefused("unknown_client", f"there is no client {params.client}; `clients.list` has them")
        if not 0 <= number < len(self._supervisor.gateways):
            raise unknown
        gateway = self._supervisor.gateways[number]
        if gateway.child is None:
            raise unknown
        kick = GatewayKick(params.client, params.reason)
        try:
            status = await gateway.child.link.request("kick", kick, result=ClientStatus, timeout_s=KICK_TIMEOUT_S)
        except RequestRefused:
            raise
        except ActorError as error:
            raise RequestRefused("unavailable", f"{gateway.name} does not answer: {error}") from error
        return KickResult(status)

    # --- logs, configuration ---

    async def log_level(self, params: LogLevelParams) -> LogLevelResult:
        """Let one actor, or all, log at another level; without one, only say what holds."""
        names = [ROOT, *(service.name for service in self._supervisor.services)]
        actor = params.actor
        if actor is not None and actor not in names:
            actor = f"feed.{actor}"
        if actor is not None and actor not in names:
            raise RequestRefused(
                "unknown_service", f"there is no actor {params.actor!r}; there are: {', '.join(names)}"
            )
        levels = self._supervisor.levels
        if params.level is not None:
            levels.set(params.level, actor)
            await self._supervisor.tell_levels(actor)
            log.info("log.level", level=params.level, of=actor or "all")
        return LogLevelResult({name: levels.of(name).level for name in names if actor in (None, name)})

    async def reload(self) -> ReloadResult:
        """Read the configuration again; see :class:`Reloader`."""
        return await self._reloader.reload()
