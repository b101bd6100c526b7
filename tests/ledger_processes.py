"""Processes that charge one ledger and are killed at it, all forked from one that has loaded.

Run as ``python -m tests.ledger_processes TASK DIRECTORY``; prints what came of it as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from fgcif_flwr.errors import BudgetExhaustedError
from fgcif_flwr.privacy.accounting import ORDERS, compose, epsilon_of
from fgcif_flwr.privacy.ledger import Charge, SqliteLedger

DELTA = 1e-5
TRAIN, TEST = (0.0, 0.7), (0.8, 1.0)
LIMIT = 0.2


def charges(slot: int, run: str = "run") -> list[Charge]:
    """One release about two stretches of customers."""
    curve = tuple(np.array(ORDERS) * 1e-5)
    return [
        Charge(run, "gradients", slot, "customer", curve, 1e-12, *TRAIN),
        Charge(run, "gradients", slot, "customer", curve, 0.0, *TEST),
    ]


def forked(work: Callable[[int], None]) -> tuple[int, int]:
    """Run ``work(pipe)`` in a child; return its process and the other end of the pipe."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(reading)
            work(writing)
            os._exit(0)
        except BaseException as error:
            os.write(writing, f"\nfailed {type(error).__name__} {error}\n".encode())
        finally:
            os._exit(1)
    os.close(writing)
    return process, reading


def told(process: int, reading: int) -> list[list[str]]:
    """Wait for a child to end; return the words of the lines it wrote."""
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().decode().splitlines()
    os.waitpid(process, 0)
    return [line.split() for line in lines if line]


def charging(path: Path, first: int, early: bool) -> Callable[[int], None]:
    """Charge and release slot after slot, and tell which; ``early`` releases before it charges."""

    def work(pipe: int) -> None:
        with SqliteLedger(path, "customers") as ledger:
            os.write(pipe, b"opened\n")
            for slot in range(first, first + 10**6):
                if early:
                    os.write(pipe, f"released {slot}\n".encode())
                number = ledger.reserve(charges(slot), 1e6, DELTA)
                if not early:
                    os.write(pipe, f"released {slot}\n".encode())
                ledger.commit(number)
                os.write(pipe, f"committed {slot}\n".encode())

    return work


def wrong_with(path: Path, lines: list[list[str]]) -> list[str]:
    """Open what a killed process left; say all that is wrong with it."""
    wrong = [" ".join(line) for line in lines if line[0] == "failed"]
    if not path.exists():
        return wrong + ["released without a ledger" for line in lines if line[0] == "released"]
    # Opening walks the chain, and compares the sums with the entries bit by bit.
    with SqliteLedger(path, "customers") as ledger:
        entries, spent = list(ledger.entries(DELTA)), ledger.spent(DELTA)
    charged = {entry.charge.slot for entry in entries}
    committed = {entry.charge.slot for entry in entries if entry.committed}
    for word, there in (("released", charged), ("committed", committed)):
        missing = {int(line[1]) for line in lines if line[0] == word} - there
        wrong += [f"slot {slot} is not {word} in the ledger" for slot in missing]
    if len(entries) != 2 * spent.entries or spent.reserved != len(charged - committed):
        wrong.append("half of a release was charged, or counted")
    curve = compose(*(e.charge.curve for e in entries if e.charge.lower == TRAIN[0]))
    tail = 1e-12 * spent.entries
    least = epsilon_of(curve, DELTA - tail)
    if not least * (1 - 1e-12) <= spent.epsilon <= least * (1 + 1e-9):
        wrong.append(f"epsilon is {spent.epsilon!r} and not {least!r}")
    return wrong


def crashes(directory: Path, deaths: int, early: bool = False) -> dict[str, Any]:
    """Kill charging processes at random moments, opening and making the file among them."""
    draw = random.Random(20240229)
    wrong: list[str] = []
    opened = released = uncommitted = 0
    for death in range(deaths):
        path = directory / f"ledger{death // 15}"  # a new one now and then: checks stay quick
        process, pipe = forked(charging(path, death * 10**6, early))
        before = b""
        if death % 3:
            before = os.read(pipe, 7)
            time.sleep(draw.uniform(0, 0.025))
        else:
            time.sleep(draw.uniform(0, 0.03))
        os.kill(process, signal.SIGKILL)
        lines = [*([before.decode().split()] if before else []), *told(process, pipe)]
        words = [line[0] for line in lines]
        opened += "opened" in words
        released += words.count("released")
        uncommitted += words.count("released") > words.count("committed")
        wrong += wrong_with(path, lines)
    return {
        "deaths": deaths,
        "opened": opened,
        "released": released,
        "uncommitted": uncommitted,
        "wrong": wrong,
    }


def counted_work(path: Path, slot: int, fatal: int) -> Callable[[int], None]:
    """Charge once, and die at the step of this number: a line of Python or an opcode of SQLite."""

    def work(pipe: int) -> None:
        steps = 0

        def step() -> int:
            nonlocal steps
            steps += 1
            if steps == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            if "ledger" not in frame.f_code.co_filename:
                return None
            step()
            return trace

        with SqliteLedger(path, "customers") as ledger:
            ledger._connection.set_progress_handler(step, 1)
            sys.settrace(trace)
            number = ledger.reserve(charges(slot), 1e6, DELTA)
            os.write(pipe, f"released {slot}\n".encode())
            ledger.commit(number)
            os.write(pipe, f"committed {slot}\n".encode())
            sys.settrace(None)
            os.write(pipe, f"steps {steps}\n".encode())

    return work


def traced(directory: Path, deaths: int) -> dict[str, Any]:
    """Kill a process at each of some steps of a charge."""
    draw = random.Random(5)
    path = directory / "first"
    lines = told(*forked(counted_work(path, 0, -1)))
    (steps,) = (int(line[1]) for line in lines if line[0] == "steps")
    wrong = wrong_with(path, lines)
    died = released = 0
    for death in range(deaths):
        path = directory / f"traced{death // 15}"
        lines = told(*forked(counted_work(path, death, draw.randint(1, steps))))
        words = [line[0] for line in lines]
        died += "steps" not in words
        released += "released" in words
        wrong += wrong_with(path, lines)
    return {"steps": steps, "died": died, "released": released, "wrong": wrong}


def together(directory: Path, processes: int) -> dict[str, Any]:
    """Let processes make one ledger and charge it at the same time until it is exhausted."""
    path = directory / "shared"

    def work(pipe: int) -> None:
        with SqliteLedger(path, "customers") as ledger:
            os.write(pipe, f"key {ledger.population_key.hex()}\n".encode())
            slot = 0
            try:
                while True:
                    number = ledger.reserve(charges(slot, f"run{os.getpid()}"), LIMIT, DELTA)
                    os.write(pipe, f"released {number}\n".encode())
                    slot += 1
            except BudgetExhaustedError:
                os.write(pipe, b"exhausted\n")

    children = [forked(work) for _ in range(processes)]
    lines = [line for child in children for line in told(*child)]
    fitting = 0
    one = np.array(charges(0)[0].curve)
    while epsilon_of(one * (fitting + 1), DELTA - 1e-12 * (fitting + 1)) <= LIMIT:
        fitting += 1
    with SqliteLedger(path, "customers") as ledger:
        spent = ledger.spent(DELTA)
    return {
        "fitting": fitting,
        "numbers": sorted(int(line[1]) for line in lines if line[0] == "released"),
        "exhausted": sum(line[0] == "exhausted" for line in lines),
        "keys": len({line[1] for line in lines if line[0] == "key"}),
        "left": sorted(one.name for one in directory.iterdir()),
        "epsilon": spent.epsilon,
        "entries": spent.entries,
    }


TASKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "crashes": lambda directory: crashes(directory, 210),
    "early": lambda directory: crashes(directory, 45, early=True),
    "traced": lambda directory: traced(directory, 90),
    "together": lambda directory: together(directory, 3),
}

if __name__ == "__main__":
    epsilon_of(charges(0)[0].curve, DELTA)  # loads the accountant, once for all children
    print(json.dumps(TASKS[sys.argv[1]](Path(sys.argv[2]))))
