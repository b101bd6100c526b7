"""The agent's process: two sockets, one agent, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from fgcif_flwr.enterprise.agent.admin_app import AdminSocket
from fgcif_flwr.enterprise.agent.agent import Agent
from fgcif_flwr.enterprise.agent.hardening import harden
from fgcif_flwr.enterprise.agent.operation import Answer, Operation, Operations
from fgcif_flwr.enterprise.agent.own_log import log_event, logging_to_own_file
from fgcif_flwr.enterprise.agent.protocol import GuardedConfig, QuietServer
from fgcif_flwr.enterprise.agent.shared_app import SharedSocket
from fgcif_flwr.enterprise.agent.sockets import ADMIN_MODES, SHARED_MODES, listen
from fgcif_flwr.enterprise.agent.state_lock import state_lock
from fgcif_flwr.enterprise.agent.users import Users
from fgcif_flwr.enterprise.site import Site
from fgcif_flwr.errors import PolicyError

logger = logging.getLogger(__name__)

SECONDS_TO_FINISH = 30.0
"""That a request in work has after SIGTERM: what it has charged and spent is on disk already."""
_ROOT = 0
_OPERATIONS_AT_ONCE = 2


def serve(site: Site, operations: Operations, ready: Callable[[int], None] | None = None) -> None:
    """Run the agent in this process until SIGTERM or SIGINT; a request in work is finished first.

    Parameters
    ----------
    site : Site
    operations
        Of the admin socket; ``reload`` and ``agent`` are the agent's own.
    ready
        Called once both sockets listen, with the number of customers loaded.

    Raises
    ------
    PolicyError
        If the SuperNode's user is the agent's own, so that the kernel could not tell them apart;
        if others could replace a socket.
    ConfigurationError
        If another process is the agent of this state already, or a socket cannot be made.
    FgcifError
        If the enterprise's state or data cannot be used.
    """
    section = site.config.agent
    users = check_users(Users.of(section))
    harden()
    with ExitStack() as opened:
        opened.enter_context(state_lock(site.config.directory))
        opened.enter_context(logging_to_own_file(site.log_path))
        agent = opened.enter_context(Agent(site))
        one = opened.enter_context(ThreadPoolExecutor(1, "agent", flush_denormals))
        several = opened.enter_context(ThreadPoolExecutor(_OPERATIONS_AT_ONCE, "operations"))
        most = section.maximum_request_mb * 10**6
        shared = SharedSocket(agent, one, most, section.release_seconds)
        own = {**operations, **_own_operations(agent)}
        admin = AdminSocket(site, own, several, most)
        sockets = [
            opened.enter_context(_listening(section.shared, SHARED_MODES)),
            opened.enter_context(_listening(section.admin, ADMIN_MODES)),
        ]
        servers = [
            QuietServer(GuardedConfig(shared.app(), "shared", frozenset({users.supernode}))),
            QuietServer(GuardedConfig(admin.app(), "admin", frozenset({users.agent, _ROOT}))),
        ]
        log_event(logger, "start", process=os.getpid(), customers=agent.customers)
        asyncio.run(_run(servers, sockets, shared, lambda: ready and ready(agent.customers)))
        log_event(logger, "stop", process=os.getpid())


def flush_denormals() -> None:
    """Let this thread take numbers next to 0 for 0.

    Processors are a hundred times slower on them, so that a crafted model could make the time of a
    reply tell which customers' values it makes such numbers of.
    """
    torch.set_flush_denormal(True)


def check_users(users: Users) -> Users:
    """Raise PolicyError unless this process is the agent's user, and the SuperNode's is another."""
    if os.geteuid() != users.agent:
        raise PolicyError(
            f"this process runs as user {os.geteuid()} and agent.user is {users.agent}: start it "
            "as that user, or let fgcif-client join, started as root, start both"
        )
    if users.agent == users.supernode:
        raise PolicyError(
            "the agent and the SuperNode are one user, so code that the coordinator sends could "
            "read whatever the agent holds: set agent.supernode_user to a user of its own"
        )
    return users


@contextmanager
def _listening(path: Path, modes: tuple[int, int]) -> Iterator[socket.socket]:
    listener = listen(path, modes)
    try:
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


async def _run(
    servers: list[QuietServer],
    sockets: list[socket.socket],
    shared: SharedSocket,
    ready: Callable[[], object],
) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if not shared.stopping:
            late = threading.Timer(SECONDS_TO_FINISH, _end_at_once)
            late.daemon = True
            late.start()
        shared.stopping = True
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with asyncio.TaskGroup() as group:
        for server, one in zip(servers, sockets, strict=True):
            group.create_task(server.serve(sockets=[one]))
        while not all(server.started for server in servers) and not shared.stopping:
            await asyncio.sleep(0.01)
        ready()


def _end_at_once() -> None:
    log_event(logger, "stop", outcome="in the middle of a request", process=os.getpid())
    os._exit(1)


class _NoRequest(BaseModel):
    """Asks nothing more."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _own_operations(agent: Agent) -> dict[str, Operation]:
    def reload(site: Site, request: _NoRequest) -> Answer:
        found = agent.reload()
        return Answer({"customers": agent.customers}, None, found)

    def about(site: Site, request: _NoRequest) -> Answer:
        return Answer({"process": os.getpid(), "customers": agent.customers, "run": agent.run})

    return {"reload": Operation(_NoRequest, reload), "agent": Operation(_NoRequest, about)}
