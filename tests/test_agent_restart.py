"""An agent that is killed in the middle of a release, and one that is told to stop in it."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from fgcif_flwr.federation.agent_http import BrokenOffError
from fgcif_flwr.federation.epochs import SLOTS_BETWEEN_EPOCHS
from fgcif_flwr.federation.releases import STATISTICS, layout_of
from fgcif_flwr.federation.requests import Refusal
from fgcif_flwr.federation.session import Task
from fgcif_flwr.secagg import Released
from tests.agent_rig import SIMULATOR, Consortium, consortium, wait_until
from tests.hostile_app import Kit, Run

SECONDS = 0.8
"""For which a reply that is ready waits: long enough to be killed in."""


class KilledInRelease(Run):
    """A run in which the agent is sent a signal while its first release is in work."""

    def __init__(self, kit: Kit, found: Consortium, number: signal.Signals) -> None:
        super().__init__(kit)
        self.house = found.houses[0]
        self.number: signal.Signals | None = number
        self.code: int | None = None
        self.sent = None

    def pass_on(self, message):
        if message.metadata.message_type != "train.release" or self.number is None:
            return super().pass_on(message)
        self.sent = message
        number, self.number = self.number, None
        killer = threading.Thread(target=self._kill, args=(number,))
        killer.start()
        try:
            return super().pass_on(message)
        except BrokenOffError:
            return Refusal.internal()
        finally:
            killer.join()

    def _kill(self, number):
        log = self.house.state / "releases.jsonl"
        wait_until(lambda: log.exists() and log.read_text(encoding="utf-8"))
        time.sleep(0.2)
        self.code = self.house.stop(number)

    def sum_of_statistics(self):
        layout = layout_of(STATISTICS, self.config, self.features, 0)
        messages = self.session.open(Task(STATISTICS, layout, {}))
        return self.session.collect(self.send_and_receive(messages))


def kit_of(found: Consortium) -> Kit:
    victim, *others = found.houses
    return Kit(
        socket=str(victim.shared),
        admin=str(victim.admin),
        state=str(victim.state),
        data=str(victim.directory / "data"),
        process=0,
        victim=victim.name,
        victim_public=victim.identity.public.hex(),
        coordinator_seed=found.coordinator.private.hex(),
        other_seeds={house.name: house.identity.private.hex() for house in others},
        config={**SIMULATOR, "run.timeout": 20.0},
    )


@pytest.fixture
def found():
    with consortium(4, supernode=0, agent={"release_seconds": SECONDS}) as one:
        one.houses[0].start()
        yield one


def test_a_run_goes_on_after_an_agent_was_killed_in_the_middle_of_a_release(found):
    run = KilledInRelease(kit_of(found), found, signal.SIGKILL)
    house = found.houses[0]
    run.session.join()
    first = run.sum_of_statistics()
    assert run.code == -signal.SIGKILL
    assert house.name not in first.survivors
    house.start()  # its socket was left behind
    before = len((house.state / "releases.jsonl").read_text(encoding="utf-8").splitlines())
    again = run.pass_on(run.sent)
    assert isinstance(again, Refusal)
    assert again.code == 35  # its keys died with the process: the slot is lost, no second vector
    slots = [run.sum_of_statistics() for _ in range(SLOTS_BETWEEN_EPOCHS + 1)]
    assert house.name in slots[-1].survivors
    after = len((house.state / "releases.jsonl").read_text(encoding="utf-8").splitlines())
    assert after == before + sum(house.name in slot.survivors for slot in slots)
    joins = [line for line in house.log() if line.get("kind") == "query.join"]
    assert [line["epoch"] for line in joins] == [1, 2]
    assert len({line["run"] for line in joins}) == 1  # counted once by its limits


def test_an_agent_that_is_told_to_stop_finishes_what_is_in_work_and_replies_in_its_time(found):
    run = KilledInRelease(kit_of(found), found, signal.SIGTERM)
    mine, _ = run.opened()
    began = time.monotonic()
    assert isinstance(run.pass_on(mine), Released)
    taken = time.monotonic() - began
    assert taken >= SECONDS
    assert run.code == 0
    assert not found.houses[0].shared.exists()
    assert [line["event"] for line in found.houses[0].log()][-1] == "stop"
