"""A ledger never counts too little: processes are killed at it, and several charge it at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ledger_processes import LIMIT

ROOT = Path(__file__).resolve().parent.parent


def outcome(task: str, directory: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.ledger_processes", task, str(directory)],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # a process of one thread may fork
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_a_process_released_before_it_was_killed_is_charged(tmp_path):
    came = outcome("crashes", tmp_path)
    assert came["wrong"] == []
    assert came["deaths"] >= 200
    # The moments were not all before the first charge, nor all between two of them.
    assert came["opened"] > 50
    assert came["released"] > 20
    assert came["uncommitted"] > 5


def test_a_release_before_its_charge_would_be_found(tmp_path):
    wrong = outcome("early", tmp_path)["wrong"]
    assert any("is not released in the ledger" in one for one in wrong)


def test_a_process_killed_at_any_step_of_a_charge_has_charged_all_of_it_or_nothing(tmp_path):
    came = outcome("traced", tmp_path)
    assert came["wrong"] == []
    assert came["steps"] > 500
    assert came["died"] > 50
    assert came["released"] > 5


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    return outcome("together", tmp_path_factory.mktemp("together"))


def test_processes_that_charge_at_once_do_not_overspend(together):
    assert together["numbers"] == list(range(1, together["fitting"] + 1))
    assert together["entries"] == together["fitting"] > 20
    assert together["epsilon"] <= LIMIT
    assert together["exhausted"] == 3


def test_processes_that_make_a_ledger_at_once_make_one(together):
    assert together["keys"] == 1
    assert together["left"] == ["shared", "shared-lock"]
