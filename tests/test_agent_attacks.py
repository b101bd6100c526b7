"""Code that the coordinator sends, run as the SuperNode's user, against a real agent of another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.agent_rig import AGENT, SIMULATOR, STRANGER, SUPERNODE, Consortium, consortium, run_as

RUNS_A_DAY = 6
SECRET = "a-secret-of-the-environment"
FILES = (
    "read_rows",
    "read_state",
    "read_process",
    "trace_process",
    "kill_agent",
    "use_admin_socket",
    "replace_socket",
    "plant_beside_socket",
)
OWN = ("read_process", "trace_process")
SPOKEN = (
    "other_paths",
    "wrong_path_for_kind",
    "unsigned",
    "signed_by_another",
    "altered_message",
    "replayed",
    "from_the_future",
    "another_roster",
    "for_another_enterprise",
    "cohort_of_one",
    "the_same_slot_twice",
    "plain_vector",
    "announced_too_large",
    "a_billion_elements",
    "body_too_large",
    "endless_body",
    "pickled",
    "a_hundred_runs",
)


@dataclass
class Attacked:
    """What came of the attacks, and what the agent wrote of them."""

    said: dict[str, str]
    refused: list[dict[str, object]]
    log: str
    alive: bool
    releases: int
    modes: dict[str, int]


def attack(found: Consortium, user: int, names: tuple[str, ...]) -> dict[str, str]:
    victim, *others = found.houses
    assert victim.process is not None
    kit = {
        "socket": str(victim.shared),
        "admin": str(victim.admin),
        "state": str(victim.state),
        "data": str(victim.directory / "data"),
        "process": victim.process.pid,
        "victim": victim.name,
        "victim_public": victim.identity.public.hex(),
        "coordinator_seed": found.coordinator.private.hex(),
        "other_seeds": {house.name: house.identity.private.hex() for house in others},
        "config": {**SIMULATOR, "run.timeout": 20.0},
    }
    process = run_as(user, ["-m", "tests.hostile_app", json.dumps(kit), ",".join(names)])
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(said.splitlines()[-1])


@pytest.fixture(scope="module")
def attacked():
    with consortium(4, agent={"runs_per_day": RUNS_A_DAY}) as found:
        victim = found.houses[0]
        victim.start({"FGCIF_TEST_SECRET": SECRET})
        assert victim.process is not None
        said = attack(found, SUPERNODE, FILES + SPOKEN)
        stranger = attack(found, STRANGER, ("unsigned", "announced_too_large", *FILES))
        said |= {f"stranger_{name}": words for name, words in stranger.items()}
        own = attack(found, AGENT, OWN)
        said |= {f"own_{name}": words for name, words in own.items()}
        log = (victim.state / "agent.log").read_text(encoding="utf-8")
        releases = (victim.state / "releases.jsonl").read_text(encoding="utf-8")
        alive = victim.process.poll() is None
        modes = {one.name: one.stat().st_mode & 0o077 for one in victim.state.rglob("*")}
        yield Attacked(said, victim.refused(), log, alive, len(releases.splitlines()), modes)


@pytest.mark.parametrize("who", ["", "stranger_"])
@pytest.mark.parametrize("name", FILES)
def test_the_kernel_keeps_others_from_files_memory_and_sockets(attacked, name, who):
    assert attacked.said[who + name] == "PermissionError"


@pytest.mark.parametrize("name", OWN)
def test_not_even_other_processes_of_its_user_read_the_agents_memory(attacked, name):
    assert attacked.said[f"own_{name}"] == "PermissionError"


@pytest.mark.parametrize("name", ["unsigned", "announced_too_large"])
def test_a_third_user_is_cut_off_before_a_byte_is_read(attacked, name):
    words = attacked.said[f"stranger_{name}"]
    assert words in ("", "ConnectionResetError", "BrokenPipeError", "BrokenOffError")
    reasons = [line for line in attacked.refused if line["event"] == "connection"]
    assert {line["user"] for line in reasons} == {STRANGER}


def test_there_are_no_other_paths(attacked):
    assert set(attacked.said["other_paths"].split()) == {"404"}


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("wrong_path_for_kind", 31, "takes no train.release"),
        ("unsigned", 34, "not signed"),
        ("signed_by_another", 34, "pinned key"),
        ("altered_message", 34, "pinned key"),
        ("another_roster", 34, "agreed out of band"),
        ("for_another_enterprise", 34, "another enterprise"),
        ("cohort_of_one", 51, "cohort of 1"),
        ("a_billion_elements", 31, "its head and its size differ"),
    ],
)
def test_what_is_not_right_is_refused_in_words_that_tell_nothing(attacked, name, code, reason):
    words = attacked.said[name]
    assert words.startswith(f"refused {code}: "), words
    assert reason in words


def test_the_last_request_is_answered_again_and_an_older_one_refused(attacked):
    again, older = attacked.said["replayed"].split("; ", 1)
    assert again == "answered Identity"
    assert older.startswith("refused 34: the request was replayed")


def test_a_number_from_the_future_bars_no_later_request(attacked):
    refused, then = attacked.said["from_the_future"].split("; then ")
    assert refused.startswith("refused 34:")
    assert then == "answered Identity"


def test_a_slot_is_answered_for_one_request_and_with_the_same_bytes(attacked):
    same, *others = attacked.said["the_same_slot_twice"].split("; ")
    assert same == "same bytes: True"
    assert [words[:10] for words in others] == ["refused 33"] * 2


def test_what_leaves_looks_like_chance(attacked):
    # Counts of rows are small numbers; of uniform words one in 65,536 is below 2¹⁶.
    assert float(attacked.said["plain_vector"].split(": ")[1]) < 0.3


@pytest.mark.parametrize("name", ["announced_too_large", "body_too_large"])
def test_a_large_request_is_turned_away_by_its_announced_size(attacked, name):
    assert "413" in attacked.said[name]


def test_a_body_of_no_announced_size_is_not_read(attacked):
    assert "411" in attacked.said["endless_body"]


def test_a_pickle_is_bytes_and_nothing_else(attacked):
    assert attacked.said["pickled"].count("refused 31: a request is malformed") == 2
    assert not list(Path("/tmp").glob("fgcif-pickled-*"))


def test_of_a_hundred_runs_in_a_row_only_the_days_are_joined(attacked):
    joined, last = attacked.said["a_hundred_runs"].split("; ", 1)
    assert joined == f"joined {RUNS_A_DAY - 4}"  # four attacks before it joined a run each
    assert last.startswith("refused 51: policy: 6 runs were joined in 24 hours")


def test_every_refusal_is_in_the_agents_log(attacked):
    reasons = " ".join(str(line.get("reason")) for line in attacked.refused)
    for words in (
        "takes no train.release",
        "not signed",
        "pinned key",
        "replayed",
        "ahead of this enterprise's clock",
        "agreed out of band",
        "for another enterprise",
        "cohort",
        "spent",
        "content-length",
        "above the most",
        "head cannot be read",
        "head and its size",
        "there is no such path",
        "runs were joined",
    ):
        assert words in reasons, words
    many = [line for line in attacked.refused if "runs were joined" in str(line.get("reason"))]
    assert len(many) == 100 - (RUNS_A_DAY - 4)


def test_the_agent_lives_and_its_log_holds_no_secret(attacked):
    assert attacked.alive
    assert SECRET not in attacked.log
    assert attacked.releases == 2  # of the two attacks that got a masked vector


def test_all_that_is_written_is_the_agents_users_alone(attacked):
    names = {"ledger.db", "witness.db", "journal.db", "agent.db", "agent.log", "releases.jsonl"}
    assert names <= set(attacked.modes)
    assert set(attacked.modes.values()) == {0}
