"""The same two apps over `flwr run` and in this process give the same model, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fgcif_flwr.cli.run_options import resolve
from fgcif_flwr.cli.simulate import Engine, run_simulation
from fgcif_flwr.errors import OutOfRangeError

SMALL: dict[str, object] = {
    "run.enterprises": 5,
    "run.rounds": 2,
    "simulator.customers": 60,
    # What could differ between processes: dropout, balanced classes, the server's moments.
    "model.dropout": 0.1,
    "training.class_weighting": "balanced",
    "training.server_optimizer": "adam",
    "training.server_learning_rate": 0.01,
}


def processes_of_flower() -> set[str]:
    """Command lines of Flower's and Ray's processes that run now."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "flower-super" in line or "raylet" in line or "ray::" in line:
            found.add(f"{entry.parent.name} {line}")
    return found


def test_flower_and_inline_give_the_same_model_and_leave_nothing_running(tmp_path: Path):
    before = processes_of_flower()
    results = {}
    for engine in Engine:
        config, _ = resolve(SMALL, tmp_path / engine.value)
        results[engine] = run_simulation(config, engine, with_baselines=False)
    flower, inline = results[Engine.FLOWER], results[Engine.INLINE]
    assert flower["model_sha256"] == inline["model_sha256"]
    assert flower["metrics"] == inline["metrics"]
    # as `flwr list --format json` says it: exit code 0 of `flwr run` would not prove it
    assert flower["engine"]["status"] == "finished:completed"
    assert flower["communication"]["exchanges"] == inline["communication"]["exchanges"]
    assert processes_of_flower() <= before


def test_a_run_that_fails_under_flower_fails_with_the_server_apps_own_reason(tmp_path: Path):
    config, _ = resolve(SMALL | {"secagg.value_bound": 1e-6, "run.retries": 0}, tmp_path)
    with pytest.raises(OutOfRangeError, match=r"secagg\.value_bound"):
        run_simulation(config, Engine.FLOWER, with_baselines=False)
    assert not (tmp_path / "run.json").exists()


def test_the_repository_is_a_flower_app(tmp_path: Path):
    # Anyone may `flwr run` the checkout itself; its bundle must hold all that the apps import.
    repository = Path(__file__).resolve().parents[1]
    built = subprocess.run(
        ["flwr", "build", "--app", str(repository)],
        cwd=tmp_path,
        env=os.environ
        | {
            "FLWR_HOME": str(tmp_path / "flower"),
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (bundle,) = tmp_path.glob("*.fab")
    names = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(bundle)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for wanted in (
        "fgcif_flwr/secagg/participant/party.py",
        "fgcif_flwr/secagg/coordinator/unmasking.py",
        "fgcif_flwr/secagg/journal/sqlite.py",
        "fgcif_flwr/data/schemas/telco.toml",
        "server_app/app.py",
        "client_app/app.py",
    ):
        assert wanted in names
    assert bundle.stat().st_size < 10 * 1024 * 1024
