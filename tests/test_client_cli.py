"""``fgcif-client``: setting an enterprise up, and what it tells of what left it."""

from __future__ import annotations

import json
import os
import pwd
import re
import stat
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgcif_flwr.cli.client import templates
from fgcif_flwr.cli.client.templates import POLICY, Answers, configuration
from fgcif_flwr.config.crm import COMPONENT_COLUMNS
from fgcif_flwr.config.enterprise import (
    AgentSection,
    EnterpriseConfig,
    SuperNodeSection,
    load_enterprise,
)
from fgcif_flwr.enterprise.agent.limits import AgentState
from fgcif_flwr.enterprise.operations import OPERATIONS
from fgcif_flwr.enterprise.operations.description import SMALLEST_CELL, suppressed
from fgcif_flwr.federation.roster import load_identity
from fgcif_flwr.privacy.accounting import ORDERS
from fgcif_flwr.privacy.ledger import Charge, SqliteLedger
from fgcif_flwr.privacy.policy import Policy, load_policy
from fgcif_flwr.privacy.release_log import FileLog, LogEntry
from fgcif_flwr.privacy.statement import PrivacyStatement
from tests.client_rig import RUN, Client, enterprise, error_line, run, told, write_roster

PASSWORD = "hunter2-Zq8"
COMMANDS = (
    ("init",),
    ("check",),
    ("schema", "show"),
    ("policy", "show"),
    ("policy", "check"),
    ("serve",),
    ("reload",),
    ("join",),
    ("runs", "list"),
    ("runs", "approve"),
    ("status",),
    ("budget",),
    ("log",),
    ("describe",),
    ("features",),
    ("evaluate",),
    ("score",),
    ("personalize",),
    ("synthesize",),
    ("export-model",),
)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return enterprise(tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_has_help_with_an_example(command: tuple[str, ...]):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert f"fgcif-client {' '.join(command)}" in " ".join(result.stdout.split())


def test_the_list_of_commands_is_complete():
    shown = run("--help").stdout
    for command in COMMANDS:
        assert command[0] in shown
    assert re.search(r"--install-completion", shown)


def test_join_starts_the_agent_apart_from_the_current_directory(
    client: Client, monkeypatch: pytest.MonkeyPatch
):
    given: list[list[str]] = []
    monkeypatch.setattr(
        "fgcif_flwr.enterprise.agent.supervision.supervise",
        lambda _, command: given.append(command),
    )
    monkeypatch.chdir(client.directory)
    assert run("join", "--config", client.config.name).exit_code == 0
    assert given[0][:3] == [sys.executable, "-P", "-m"]
    assert given[0][-2:] == ["--config", str(client.config)]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[agent]", "[agent]\nsupernode_usr = 'x'", "did you mean agent.supernode_user?"),
        ("[consortium]", "[consortium]\nschem = 'x'", "did you mean consortium.schema?"),
        ("[data.table]", "[data.table]\ndelimeter = ';'", "did you mean data.table.delimiter?"),
        ("[agent]", "[agents]", "did you mean agent?"),
    ],
)
def test_a_key_that_no_configuration_has_is_told_with_the_nearest(
    client: Client, old: str, new: str, told: str
):
    client.edit(old, new)
    result = client.run("check")
    assert result.exit_code == 11
    assert told in result.stderr


# init


def test_init_of_root_makes_state_and_sockets_of_the_agents_user(tmp_path: Path):
    if os.geteuid() != 0:
        pytest.skip("giving directories away wants root")
    enterprise(tmp_path, user="64101")
    for name, right in (("state", 0o700), ("sockets", 0o711)):
        assert (tmp_path / name).stat().st_uid == 64101
        assert mode(tmp_path / name) == right


def test_init_makes_key_configuration_and_policy_that_only_the_owner_can_use(tmp_path: Path):
    options = ["--config", str(tmp_path / "fgcif-client.toml"), "--name", "acme"]
    result = told(
        run("init", *options, "--schema", "telco", "--table", "c.csv", "--format", "json")
    )
    key = tmp_path / "state" / "identity.pem"
    assert (mode(tmp_path / "state"), mode(key)) == (0o700, 0o600)
    public = load_identity(key).public.hex()
    assert json.loads(f"{{{result['roster_line']}}}") == {"acme": public}
    config = load_enterprise(tmp_path / "fgcif-client.toml")
    assert (config.enterprise.name, config.consortium.schema_file) == ("acme", "telco")
    assert config.data.table is not None
    assert load_policy(config.enterprise.policy) == Policy()
    assert key.read_text() not in run("init", *options, "--schema", "telco", "--table", "c").stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_init_gives_state_and_key_to_the_agents_user(tmp_path: Path):
    client = enterprise(tmp_path, user="nobody")
    nobody = pwd.getpwnam("nobody").pw_uid
    assert client.state.stat().st_uid == (client.state / "identity.pem").stat().st_uid == nobody
    assert client.config.stat().st_uid == 0
    unknown = run("init", "--name", "a", "--schema", "telco", "--table", "c", "--user", "no-such-1",
                  "--config", str(tmp_path / "x" / "c.toml"))  # fmt: skip
    assert unknown.exit_code == 10
    assert not (tmp_path / "x").exists()


def test_init_overwrites_nothing(tmp_path: Path, client: Client):
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    again = client.run("init", "--name", "other", "--schema", "telco", "--table", "x.csv")
    assert again.exit_code == 10
    assert "nothing was written" in error_line(again)
    client.config.rename(tmp_path / "old.toml")
    told_kept = client.told("init", "--name", "acme", "--schema", "telco", "--table", "x.csv")
    assert {Path(path).name for path in told_kept["kept"]} == {"identity.pem", "policy.toml"}
    for file, content in before.items():
        if file != client.config:
            assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--table", f"postgresql://crm:{PASSWORD}@db/crm#customers"], "holds a password"),
        (["--table", "postgresql://db/crm"], "#TABLE"),
        (["--table", f"{PASSWORD}://#x"], "database"),
        ([], "say where the data lies"),
        (["--table", "a.csv", "--events", "b.csv"], "say where the data lies"),
        (["--table", "a.csv", "--schema", "telko"], "telco"),
        (["--table", "a.csv", "--name", "a b"], "--name"),
    ],
)
def test_what_init_refuses_it_says_and_writes_nothing(
    tmp_path: Path, arguments: list[str], words: str
):
    config = ["--config", str(tmp_path / "c.toml")]
    result = run("init", "--name", "acme", "--schema", "telco", *arguments, *config)
    assert result.exit_code in (10, 20)
    assert words in error_line(result)
    assert PASSWORD not in result.stderr
    assert list(tmp_path.iterdir()) == []


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)


@given(file=_TEXT, table=_TEXT, user=_TEXT)
def test_whatever_a_file_is_called_the_configuration_reads_it_back(
    file: str, table: str, user: str
):
    database = "sqlite:///crm.db"
    for part in COMPONENT_COLUMNS:
        answers = Answers(
            "acme", file, file, file, {part: (file, "")} if "://" not in file else {}, user=user
        )
        if answers.sources:
            tree = tomllib.loads(configuration(answers))
            config = EnterpriseConfig.model_validate(tree)
            assert config.data.components[part].source == file
            assert (config.consortium.schema_file, config.agent.user) == (file, user)
    answers = Answers("acme", "telco", "r", "c", {"table": (database, table)}, superlink="h:1")
    config = EnterpriseConfig.model_validate(tomllib.loads(configuration(answers)))
    assert config.data.table is not None
    assert (config.data.table.table, config.supernode.address) == (table, "h:1")


def uncommented(text: str) -> str:
    """Return a file's text with its commented settings and sections set."""
    return re.sub(r"^# (?=\[|\"?[\w]+\"? = )", "", text, flags=re.MULTILINE)


def test_the_commented_rules_of_the_policy_are_the_defaults():
    tree = tomllib.loads(uncommented(POLICY))
    assert set(tree) == set(Policy.model_fields)
    examples = {"tasks", "features", "minimum_colluders"}
    policy = Policy.model_validate(tree)
    for name in set(tree) - examples:
        assert getattr(policy, name) == getattr(Policy(), name), name


@pytest.mark.parametrize("part", ["table", *COMPONENT_COLUMNS])
@pytest.mark.parametrize("where", [("c.csv", ""), ("sqlite:///crm.db", "t")])
def test_every_commented_setting_is_one_that_there_is(part: str, where: tuple[str, str]):
    text = configuration(Answers("acme", "telco", "r", "c", {part: where}))
    tree = tomllib.loads(uncommented(text))
    config = EnterpriseConfig.model_validate(tree)
    assert config.agent == AgentSection()
    assert set(tree["supernode"]) == set(SuperNodeSection.model_fields)
    assert set(tree["agent"]) == set(AgentSection.model_fields)
    assert set(templates._EXAMPLES) == {"table", *COMPONENT_COLUMNS}


def test_paths_mean_the_same_wherever_the_command_was_given(tmp_path: Path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    flags = ["--name", "acme", "--schema", "telco", "--table", "c.csv"]
    assert run("init", *flags, "--config", "here/client.toml").exit_code == 0
    config = load_enterprise(tmp_path / "here" / "client.toml")
    assert config.data.table is not None
    assert config.data.table.source == str(tmp_path / "c.csv")


def test_the_configuration_may_be_named_by_the_environment(client: Client):
    found = run(
        "status", "--format", "json", environment={"FGCIF_CLIENT_CONFIG": str(client.config)}
    )
    assert told(found)["name"] == "acme"


# schema, policy


def test_schema_show_tells_the_consortiums_schema(client: Client):
    assert client.told("schema", "show")["hash"] == client.schema.hash
    text = client.run("schema", "show").stdout
    for word in (client.schema.hash, "basic, plus, pro", "18 to 100 years", "churn"):
        assert word in text
    assert "[[features]]" in client.run("schema", "show", "--toml").stdout


def test_policy_show_and_check_tell_rules_and_faults(client: Client, tmp_path: Path):
    shown = client.told("policy", "show")
    assert set(shown["rules"]) == set(Policy.model_fields)
    assert shown["changed"] == []
    stricter = tmp_path / "stricter.toml"
    stricter.write_text("epsilon_total = 3.0\n")
    checked = client.told("policy", "check", "--policy", str(stricter))
    assert (checked["changed"], checked["rules"]["epsilon_total"]) == (["epsilon_total"], 3.0)
    stricter.write_text("epsilon_totl = 3.0\n")
    wrong = client.run("policy", "check", "--policy", str(stricter))
    assert wrong.exit_code == 11
    assert "epsilon_totl" in error_line(wrong)


# budget, log, status


def charge(client: Client, run_name: str, releases: int, scale: float = 0.001) -> None:
    curve = tuple(scale * order for order in ORDERS)
    with SqliteLedger(client.state / "ledger.db", "acme") as ledger:
        for slot in range(releases):
            task = "train" if slot else "statistics"
            number = ledger.reserve(
                [Charge(run_name, task, slot, "customer", curve, 0.0, 0.3, 1.0)], 10.0, 1e-4
            )
            ledger.commit(number)


def release(client: Client, run_name: str, slot: int, day: int, unit: str = "customer") -> None:
    time = datetime(2026, 3, day, 12, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    entry = LogEntry(time, run_name[:16], slot, "train", 5301, 40, unit, "in words")
    FileLog(client.state / "releases.jsonl").append(entry)


def test_before_any_run_the_budget_is_whole_and_no_ledger_is_made(client: Client):
    result = client.told("budget")
    assert (result["spent"], result["remaining"], result["runs"]) == (0.0, 10.0, [])
    assert not (client.state / "ledger.db").exists()


def test_the_budget_is_what_the_ledger_says(client: Client):
    charge(client, RUN, 3)
    charge(client, "cd" * 32, 2)
    result = client.told("budget")
    with SqliteLedger(client.state / "ledger.db", "acme") as ledger:
        assert result["spent"] == ledger.spent(1e-4).epsilon
        in_runs = [ledger.spent_in_run(name, 1e-5).epsilon for name in (RUN, "cd" * 32)]
    assert result["remaining"] == 10.0 - result["spent"]
    assert [one["epsilon"] for one in result["runs"]] == in_runs
    assert [one["tasks"] for one in result["runs"]] == [
        {"statistics": 1, "train": 2},
        {"statistics": 1, "train": 1},
    ]
    assert result["releases"] == 5
    text = client.run("budget").stdout
    assert "abababab" in text
    assert "█" in text


def test_a_budget_that_is_gone_is_shown_as_gone(client: Client):
    (client.directory / "policy.toml").write_text("epsilon_total = 0.01\n")
    charge(client, RUN, 3)
    result = client.told("budget")
    assert result["remaining"] == 0
    assert "100%" in client.run("budget").stdout


def test_exact_sums_are_told_beside_the_budget(client: Client):
    release(client, RUN, 0, 1, "none")
    release(client, RUN, 1, 1)
    printed = json.loads(client.run("budget", "--format", "json").stdout)
    assert printed["result"]["exact_releases"] == 1
    assert "no budget covers" in printed["warnings"][0]


def test_the_log_is_filtered_by_run_time_and_number(client: Client):
    assert client.told("log") == {"releases": [], "total": 0}
    for slot in range(4):
        release(client, RUN if slot < 2 else "cd" * 32, slot, slot + 1)
    slots = lambda *given: [one["slot"] for one in client.told("log", *given)["releases"]]  # noqa: E731
    assert slots() == [0, 1, 2, 3]
    assert slots("--run", "abab") == [0, 1]
    assert slots("--run", RUN) == [0, 1]  # the log has the beginning of the whole name
    assert slots("--since", "2026-03-02") == [1, 2, 3]
    assert slots("--since", "2026-03-02T12:00:01", "--last", "1") == [3]
    text = client.run("log").stdout
    assert "5301" in text
    assert "(1) in words" in text


def test_a_damaged_log_is_an_error_that_shows_nothing_of_it(client: Client):
    release(client, RUN, 0, 1)
    with (client.state / "releases.jsonl").open("a") as file:
        file.write('{"time": "secret-words"}\n')
    result = client.run("log", "--format", "json")
    assert result.exit_code == 21
    assert "line 2" in error_line(result)
    assert "secret-words" not in result.stdout + result.stderr
    assert json.loads(result.stdout)["error"]["exit_code"] == 21


def test_status_tells_who_this_is_and_how_it_stands(client: Client):
    charge(client, RUN, 2)
    release(client, RUN, 0, 5)
    client.keep_model()
    result = client.told("status")
    assert (result["name"], result["agent"], result["enterprises"]) == ("acme", None, 4)
    assert result["budget"]["spent"] == client.told("budget")["spent"]
    assert (result["releases"], result["models"]) == (1, [RUN])
    text = client.run("status").stdout
    assert "not running" in text


def test_texts_fit_80_columns(client: Client):
    charge(client, RUN, 3)
    for slot in range(3):
        release(client, RUN, slot, 5, PrivacyStatement().in_words())
    for command in (["budget"], ["log"], ["policy", "show"], ["schema", "show"]):
        for line in client.run(*command).stdout.splitlines():
            assert len(line.rstrip()) <= 80, (command, line)


def test_only_the_states_owner_works_on_it_without_an_agent(client: Client, monkeypatch):
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    result = client.run("budget")
    assert result.exit_code == 10
    assert "run this as" in error_line(result)


@pytest.mark.parametrize(("path", "rights"), [("state", 0o750), ("state/identity.pem", 0o640)])
def test_a_state_that_others_can_read_is_not_used(client: Client, path: str, rights: int):
    (client.directory / path).chmod(rights)
    result = client.run("status")
    assert result.exit_code == 10
    assert "chmod" in error_line(result)


def test_a_roster_with_another_key_is_refused(client: Client):
    write_roster(client, own="11" * 32)
    assert client.run("status").exit_code == 10


def test_no_configuration_is_said_with_what_to_do(tmp_path: Path):
    result = run("status", "--config", str(tmp_path / "absent.toml"))
    assert result.exit_code == 10
    assert "fgcif-client init" in error_line(result)
    assert error_line(result).startswith("fgcif-client: ")


# small counts


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 60), min_size=1))
def test_no_small_count_is_shown_or_can_be_told_from_the_others(counts: dict[str, int]):
    shown = suppressed(counts)
    assert all(value == counts[name] for name, value in shown.items() if value is not None)
    assert not any(0 < value < SMALLEST_CELL for value in shown.values() if value is not None)
    hidden = [name for name, value in shown.items() if value is None]
    positive = [name for name in counts if counts[name] > 0]
    if hidden and len(positive) > 1:
        assert len(hidden) > 1  # one alone would be the rows less the others


def test_each_operation_takes_requests_of_its_own_that_refuse_what_they_do_not_know():
    for name, operation in OPERATIONS.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
        assert operation.request.model_config["extra"] == "forbid"
        assert operation.request.model_config["frozen"]
    assert len({one.run for one in OPERATIONS.values()}) == len(OPERATIONS)


# runs


def ask_for(client: Client, run_name: str, terms: str, epsilon: float) -> None:
    """Write down a run that a coordinator asked for, as the agent does."""
    text = json.dumps({"config": {"run.rounds": 12, "privacy.unit": "customer"}, "schema": "x"})
    with AgentState(client.state / "agent.db") as state, state._transaction():
        state._run(
            "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, NULL, ?)",
            *(run_name, terms, text, "customer", epsilon, 1.8e9, 0),
        )


def test_a_run_that_waits_is_listed_and_approved_by_its_terms(client: Client):
    assert client.told("runs", "list")["runs"] == []
    assert not (client.state / "agent.db").exists()
    client.edit("# approval = false", "approval = true")
    ask_for(client, RUN, "cd" * 32, 0.75)
    ask_for(client, "ef" * 32, "0a" * 32, 0.5)
    listed = client.told("runs", "list")
    assert listed["approval"] is True
    assert {one["state"] for one in listed["runs"]} == {"waiting"}
    assert listed["runs"][0]["asked"] == "2027-01-15T08:00:00Z"
    text = client.run("runs", "list").stdout
    assert "cdcdcdcdcdcd" in text
    assert "0.75" in text
    assert "12" in text
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert client.told("runs", "approve", "CD" * 16)["terms"] == "cd" * 32
    states = {one["terms"]: one["state"] for one in client.told("runs", "list")["runs"]}
    assert states == {"cd" * 32: "approved", "0a" * 32: "waiting"}


@pytest.mark.parametrize(("terms", "code"), [("cdcd", 10), ("x" * 32, 10), ("12" * 16, 51)])
def test_terms_that_are_none_approve_nothing(client: Client, terms: str, code: int):
    ask_for(client, RUN, "cd" * 32, 0.75)
    refused = client.run("runs", "approve", terms)
    assert refused.exit_code == code
    assert error_line(refused)
    assert client.told("runs", "list")["runs"][0]["state"] == "waiting"


def test_approval_that_nobody_asks_for_is_said(client: Client):
    ask_for(client, RUN, "cd" * 32, 0.75)
    printed = json.loads(client.run("runs", "approve", "cd" * 16, "--format", "json").stdout)
    assert "agent.approval is false" in printed["warnings"][0]
