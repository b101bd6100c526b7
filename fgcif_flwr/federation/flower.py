"""The Flower engine: the same two apps through ``flwr run``, in a SuperLink of their own.

Everything that the run leaves behind lies in one temporary directory: the app bundle, Flower's
home, the SuperLink's log. The SuperLink is started here, on a free port, and stopped by its
process group, so that no other run on the machine is met or disturbed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fgcif_flwr
from fgcif_flwr.config import RunConfig, flatten
from fgcif_flwr.errors import RunFailedError

_PACKAGES = ("fgcif_flwr", "server_app", "client_app")
_INCLUDED = [*(f"{package}/**/*.py" for package in _PACKAGES), "fgcif_flwr/**/*.toml"]
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_STOP_ROUNDS = 20
_POLL_SECONDS = 0.5

_ENVIRONMENT = {
    # Without the first, every run builds an environment of its own from the network.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "NO_COLOR": "1",
    # Many small workers share the cores.
    "OMP_NUM_THREADS": "1",
}


def run_with_flower(config: RunConfig, log: Path, on_poll: Callable[[], None]) -> str:
    """Run a federation of ``config.run.enterprises`` simulated enterprises by ``flwr run``.

    Parameters
    ----------
    config : RunConfig
        ``run.output`` is where the ServerApp writes its artefacts.
    log : Path
        Gets what ``flwr run --stream`` prints.
    on_poll : callable
        Called twice a second while the run goes on.

    Returns
    -------
    str
        What ``flwr list`` says of the run: ``finished:completed``.

    Raises
    ------
    RunFailedError
        If Flower does not say that the run completed; the ServerApp may have left a more exact
        reason in ``failure.json``.
    """
    # Not inside the project: Flower's workers put the SuperLink's start directory first on their
    # path, and would import the working tree in place of the bundle.
    with tempfile.TemporaryDirectory(prefix="fgcif-flower-") as name:
        work = Path(name)
        app = write_app(work / "app", config)
        with _superlink(work) as environment:
            command = [
                _script("flwr"),
                "run",
                str(app),
                "--stream",
                "--federation-config",
                f"num-supernodes={config.run.enterprises} client-resources-num-cpus=1",
            ]
            with log.open("wb") as out:
                process = subprocess.Popen(
                    command, cwd=work, env=environment, stdout=out, stderr=subprocess.STDOUT
                )
                try:
                    while process.poll() is None:
                        on_poll()
                        time.sleep(_POLL_SECONDS)
                finally:
                    if process.poll() is None:
                        process.kill()
                        process.wait()
            # `flwr run --stream` exits 0 even where the ServerApp failed: ask for the status.
            status = run_status(environment, work)
    on_poll()
    if status != "finished:completed":
        raise RunFailedError(f"Flower says {status} of the run; see {log}")
    return status


def write_app(directory: Path, config: RunConfig) -> Path:
    """Write the Flower app (both apps and this package) with ``config`` as its configuration."""
    home = Path(fgcif_flwr.__file__).resolve().parent.parent
    for package in _PACKAGES:
        shutil.copytree(
            home / package, directory / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    lines = [
        "[build-system]",
        'requires = ["setuptools"]',
        'build-backend = "setuptools.build_meta"',
        "[project]",
        'name = "fgcif"',
        f'version = "{fgcif_flwr.__version__}"',
        'license = "Apache-2.0"',
        'description = "A federation by FGCIF"',
        "dependencies = []",
        "[tool.flwr.app]",
        'publisher = "fgcif"',
        f"fab-include = {json.dumps(_INCLUDED)}",
        "[tool.flwr.app.components]",
        'serverapp = "server_app.app:app"',
        'clientapp = "client_app.app:app"',
        "[tool.flwr.app.config]",
        # JSON's strings, numbers and booleans are TOML's too.
        *(f"{key} = {json.dumps(value)}" for key, value in flatten(config).items()),
    ]
    (directory / "pyproject.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


def run_status(environment: dict[str, str], work: Path) -> str:
    """Return the status of the SuperLink's only run, as ``flwr list --format json`` has it."""
    listed = subprocess.run(
        [_script("flwr"), "list", "--format", "json"],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        runs = json.loads(listed.stdout)["runs"]
        return str(runs[0]["status"])
    except (json.JSONDecodeError, KeyError, IndexError):
        return "nothing (no run was listed)"


@contextmanager
def _superlink(work: Path) -> Iterator[dict[str, str]]:
    """Start a SuperLink for simulations; yield the environment in which ``flwr`` finds it."""
    port = _free_port()
    home = work / "flower"
    home.mkdir()
    environment = {
        **os.environ,
        **_ENVIRONMENT,
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]),
    }
    command = [
        _script("flower-superlink"),
        "--insecure",
        "--simulation",
        "--isolation",
        "subprocess",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--database",
        str(home / "state.db"),
        "--disable-runtime-dependency-installation",
    ]
    with (work / "superlink.log").open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=work,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, port)
        yield environment
    finally:
        _stop(process, home)


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RunFailedError(f"Flower's SuperLink ended at once (code {process.returncode})")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RunFailedError(f"Flower's SuperLink did not answer within {_START_SECONDS:.0f} s")


def _stop(process: subprocess.Popen[bytes], home: Path) -> None:
    """Stop the SuperLink and whatever it started, detached and renamed processes included."""
    family = _family(home)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # Again and again: one that is ending may have started another meanwhile.
    for _ in range(_STOP_ROUNDS):
        family |= _family(home)
        alive = [pid for pid, born in family.items() if _born(pid) == born]
        if not alive:
            break
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
    process.wait()


def _family(home: Path) -> dict[int, str]:
    """Return the processes whose environment names this run's Flower home, and all below them.

    By process id, with the time of birth, so that no later process of the same id is meant. Some
    of Ray's processes overwrite their environment with a title: their parents give them away.
    (Linux; elsewhere none.)
    """
    mark = f"FLWR_HOME={home}".encode()
    children: dict[int, list[int]] = {}
    marked: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                marked.append(int(entry.name))
        except OSError:  # ended meanwhile, or another user's
            continue
    family: dict[int, str] = {}
    while marked:
        pid = marked.pop()
        born = _born(pid)
        if born is not None and pid != os.getpid() and pid not in family:
            family[pid] = born
            marked += children.get(pid, [])
    return family


def _born(pid: int) -> str | None:
    """Return when a process was born, in clock ticks since boot; None if it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _script(name: str) -> str:
    """Return the path of a command installed beside this Python."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RunFailedError(f"the command {name} is not installed beside {sys.executable}")
    return found
