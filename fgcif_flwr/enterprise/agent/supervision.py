"""Keeps an enterprise's SuperNode running, and its agent, each as a user of its own."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fgcif_flwr.config.enterprise import EnterpriseConfig
from fgcif_flwr.enterprise.agent.restarts import Supervised
from fgcif_flwr.enterprise.agent.users import Users, group_id, peer_of
from fgcif_flwr.errors import AgentNotRunningError, ConfigurationError, PolicyError

logger = logging.getLogger(__name__)

SECONDS_TO_START = 600.0
"""Within which an agent must listen: it loads its rows first."""
_SAFE = {
    # Neither imports from the directory that it is started in, or that its program lies in.
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",
}
_ENVIRONMENT = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_PASSED_ON = (
    *("PATH", "LANG", "LC_ALL", "TZ", "OMP_NUM_THREADS"),
    *("LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME"),
)
_ROOT = 0


def supervise(
    config: EnterpriseConfig,
    agent_command: Sequence[str] | None = None,
    *,
    tick: float = 0.2,
) -> None:
    """Run the SuperNode, and the agent unless one runs already, until SIGTERM or SIGINT.

    Parameters
    ----------
    config
    agent_command
        Starts the agent's process (``fgcif-client serve``); None where another service does so.
    tick
        Seconds between two looks at the processes.

    Raises
    ------
    PolicyError
        If agent and SuperNode are, or would be, one user, the SuperNode would be root, or another
        than the agent's user listens where the agent should.
    ConfigurationError
        If there is no address, key or certificate to start a SuperNode with, or this user may not
        start a process as another.
    AgentNotRunningError
        If no agent runs, and none is to be started, or it does not come up.
    """
    users = Users.of(config.agent)
    arguments = supernode_arguments(config)
    check_apart(users, listening_user(config.agent.shared))
    environment = {**_passed_on(_PASSED_ON), **_SAFE}
    pause = config.supernode.longest_pause
    children: list[Supervised] = []
    with _stopping() as stopped:
        try:
            if listening_user(config.agent.shared) is None:
                if agent_command is None:
                    raise AgentNotRunningError(
                        f"no agent listens on {config.agent.shared}; start it first, with "
                        "fgcif-client serve"
                    )
                # A database's password is for the agent alone.
                own = {**environment, **_passed_on(_passwords(config))}
                children.append(Supervised("agent", agent_command, users.agent, own, pause))
                _await_agent(children[0], config, users, stopped, tick)
            children.append(
                Supervised(
                    "SuperNode",
                    arguments,
                    users.supernode,
                    {**environment, **_ENVIRONMENT, **_home(config, users.supernode)},
                    pause,
                )
            )
            while not stopped.is_set():
                for child in children:
                    child.tend(time.monotonic())
                stopped.wait(tick)
        finally:
            for child in reversed(children):
                child.stop()


def supernode_arguments(config: EnterpriseConfig) -> list[str]:
    """Return the command that starts the enterprise's SuperNode.

    Raises
    ------
    ConfigurationError
        Naming the setting that is absent, or the file that is.
    """
    section = config.supernode
    if not section.address:
        raise ConfigurationError("supernode.address is empty: there is no consortium to join")
    arguments = [_executable("flower-supernode"), "--superlink", section.address]
    if section.insecure:
        arguments.append("--insecure")
    else:
        arguments += ["--root-certificates", _file(section.root_certificates, "root_certificates")]
        arguments += ["--auth-supernode-private-key", _file(section.key, "key")]
    socket_path = str(config.agent.shared)
    if '"' in socket_path or "'" in socket_path or "\\" in socket_path:
        raise ConfigurationError(f"agent.shared, {socket_path}, has a quotation mark in it")
    arguments += ["--node-config", f'agent="{socket_path}"', "--isolation", "subprocess"]
    return arguments


def check_apart(users: Users, listening: int | None) -> None:
    """Raise unless the SuperNode will run as another user than the agent, and this one may do so.

    Parameters
    ----------
    listening
        The user of the agent that runs, if any does.
    """
    agent = users.agent if listening is None else listening
    if users.supernode == agent:
        raise PolicyError(
            "the agent and the SuperNode would be one user: code that the coordinator sends could "
            "read whatever the agent holds; set agent.supernode_user to a user of its own, and "
            "start this as root or as that user"
        )
    if users.supernode == _ROOT:
        raise PolicyError(
            "the SuperNode would run as root, who may read whatever the agent holds; set "
            "agent.supernode_user"
        )
    if listening not in (None, users.agent):
        raise PolicyError(
            f"user {listening} listens where the agent should, and agent.user is user "
            f"{users.agent}: set agent.user to the agent's, or end the process that listens"
        )
    others = {users.supernode} | ({users.agent} if listening is None else set())
    if os.geteuid() != _ROOT and others != {os.geteuid()}:
        raise ConfigurationError(
            "only root may start processes as other users; start this as root, or the agent by "
            "itself as its user and this as the SuperNode's"
        )


def listening_user(path: Path) -> int | None:
    """Return the user of the process that listens on a socket; None if none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(1.0)
        try:
            asking.connect(str(path))
        except OSError:
            return None
        return peer_of(asking)


def _await_agent(
    agent: Supervised,
    config: EnterpriseConfig,
    users: Users,
    stopped: threading.Event,
    tick: float,
) -> None:
    until = time.monotonic() + SECONDS_TO_START
    agent.tend(time.monotonic())
    while not stopped.is_set() and listening_user(config.agent.shared) != users.agent:
        ended = agent.process is not None and agent.process.poll() is not None
        agent.pass_on()
        if ended or time.monotonic() > until:
            raise AgentNotRunningError(
                f"the agent did not come up; it said why above, or in {config.directory}/agent.log"
            )
        stopped.wait(tick)


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    stopped = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in numbers}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _executable(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ConfigurationError(f"there is no {name}; install flwr")
    return os.path.abspath(found)


def _passed_on(names: Iterable[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _passwords(config: EnterpriseConfig) -> list[str]:
    """Return the variables that hold databases' passwords: for the agent, not for the SuperNode."""
    sources = [config.data.table, *config.data.components.values()]
    return [source.password_env for source in sources if source and source.password_env]


def _file(path: Path | None, key: str) -> str:
    if path is None:
        raise ConfigurationError(f"supernode.{key} is not set")
    try:
        there = path.is_file()
    except OSError as error:
        raise ConfigurationError(
            f"supernode.{key}: {path} cannot be looked at: {error.strerror}"
        ) from None
    if not there:
        raise ConfigurationError(f"supernode.{key}: there is no file {path}")
    return str(path)


def _home(config: EnterpriseConfig, user: int) -> dict[str, str]:
    """Return where Flower keeps its own files: a directory of the SuperNode's user."""
    home = config.agent.shared.parent.parent / "supernode"
    if os.geteuid() == _ROOT:
        try:
            home.mkdir(mode=0o700)
        except FileExistsError:
            found = home.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != user:
                raise ConfigurationError(
                    f"{home} is there and no directory of the SuperNode's user ({user}); move it "
                    "away"
                ) from None
        else:
            os.lchown(home, user, group_id(user))  # never through a link put there meanwhile
    elif not home.is_dir():
        home = Path(os.environ.get("FLWR_HOME", Path.home() / ".flwr")).absolute()
    return {"HOME": str(home), "FLWR_HOME": str(home)}
