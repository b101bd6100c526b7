"""A SuperNode and an agent that are kept running as two users, and of which nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.enterprise.agent.restarts import SETTLED, Supervised
from fgcif_flwr.enterprise.agent.supervision import _home, check_apart, supernode_arguments
from fgcif_flwr.enterprise.agent.users import Users
from fgcif_flwr.errors import ConfigurationError, PolicyError
from tests.agent_rig import AGENT, ROOT, STRANGER, SUPERNODE, consortium, wait_until

LISTEN = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); \
s.listen(); time.sleep(100)"
SUPERVISE = """
import sys
from pathlib import Path
from fgcif_flwr.config.enterprise import load_enterprise
from fgcif_flwr.enterprise.agent import supervision
supervision._executable = lambda name: sys.argv[2]
config = load_enterprise(Path(sys.argv[1]))
command = [sys.executable, "-S", "-c", sys.argv[3], str(config.agent.shared)]
supervision.supervise(config, command if sys.argv[4] == "agent" else None, tick=0.05)
"""


def child(*arguments: str, **more: object) -> Supervised:
    return Supervised(
        "child", arguments, os.geteuid(), {"PATH": os.defpath}, 8.0, jitter=lambda: 1.0, **more
    )


def ended(one: Supervised) -> None:
    assert one.process is not None
    one.process.wait(20)


def test_a_process_that_ends_is_started_again_later_each_time_up_to_the_longest_pause():
    one, now, pauses = child("false"), 0.0, []
    for _ in range(6):
        one.tend(now)
        assert one.process is not None
        ended(one)
        one.tend(now)
        pauses.append(one.due - now)
        one.tend(one.due - 0.01)
        assert one.process is None
        now = one.due
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_a_process_that_ran_long_is_started_again_soon():
    one = child("false", failures=5)
    one.tend(0.0)
    ended(one)
    one.tend(SETTLED + 1)
    assert one.due == SETTLED + 2


def test_half_of_a_pause_is_drawn():
    one = child("false")
    one.jitter = lambda: 0.0
    one.tend(0.0)
    ended(one)
    one.tend(0.0)
    assert one.due == 0.5


def test_stopping_ends_what_the_process_started_even_if_it_ignores_the_signal(tmp_path):
    note = tmp_path / "pid"
    script = f"trap '' TERM; sleep 100 & echo $! > {note}; wait; sleep 100"
    one = child("sh", "-c", script)
    one.tend(0.0)
    wait_until(lambda: note.exists() and note.read_text(encoding="ascii").strip())
    grandchild = int(note.read_text(encoding="ascii"))
    assert alive(grandchild)
    one.stop(0.3)
    wait_until(lambda: not alive(grandchild), 10)


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return state.rsplit(")", 1)[1].split()[0] != "Z"


PASSWORD = "FGCIF_TEST_PASSWORD"


@pytest.fixture
def config():
    with consortium(1) as found:
        yield load_enterprise(found.houses[0].config)


def test_one_user_for_both_is_refused(config):
    for users, listening in (
        (Users(SUPERNODE, SUPERNODE), None),
        (Users(AGENT, SUPERNODE), SUPERNODE),  # the agent that runs is the SuperNode's user's
    ):
        with pytest.raises(PolicyError, match="one user"):
            check_apart(users, listening)


def test_a_supernode_of_root_is_refused(config):
    with pytest.raises(PolicyError, match="as root"):
        check_apart(Users(AGENT, 0), None)


def test_without_rights_nobody_starts_processes_as_others(config, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: SUPERNODE)
    with pytest.raises(ConfigurationError, match="only root"):
        check_apart(Users(AGENT, SUPERNODE), None)
    check_apart(Users(AGENT, SUPERNODE), AGENT)


def test_a_stranger_who_listens_where_the_agent_should_is_refused():
    with pytest.raises(PolicyError, match=f"user {STRANGER} listens"):
        check_apart(Users(AGENT, SUPERNODE), STRANGER)


def test_a_home_that_is_another_users_is_not_given_away(config):
    if os.geteuid() != 0:
        pytest.skip("giving directories away wants root")
    base = config.agent.shared.parent.parent
    base.mkdir()
    assert _home(config, SUPERNODE)["HOME"] == str(base / "supernode")
    assert (base / "supernode").stat().st_uid == SUPERNODE
    _home(config, SUPERNODE)
    os.chown(base / "supernode", AGENT, AGENT)
    with pytest.raises(ConfigurationError, match="no directory of the SuperNode's user"):
        _home(config, SUPERNODE)
    assert (base / "supernode").stat().st_uid == AGENT


def test_a_process_has_no_terminal_and_its_lines_no_control_characters():
    said: list[str] = []
    script = (
        "printf 'a\\033[2Jb\\n\\302\\233c\\rd\\n' >&2; pwd; head -c 100000 /dev/zero; printf end"
    )
    one = child("sh", "-c", script, say=said.append)
    one.tend(0.0)
    wait_until(lambda: one.tend(0.0) or one.process is None, 20)
    mark = "\N{REPLACEMENT CHARACTER}"
    assert said[:3] == [f"child: a{mark}[2Jb", f"child: {mark}c{mark}d", "child: /"]
    assert all(not set(line) & set("\0\x1b\r\x9b") for line in said)
    assert said[-1].endswith("end")


def test_a_process_that_writes_much_at_its_end_is_waited_for():
    said: list[str] = []
    script = (
        "trap 'head -c 300000 /dev/zero; echo done; exit' TERM; echo up; "
        "while :; do sleep 0.05; done"
    )
    one = child("sh", "-c", script, say=said.append)
    one.tend(0.0)
    wait_until(lambda: one.tend(0.0) or said, 20)
    one.stop(10)
    assert said[-1].endswith("done")


def test_a_supernode_wants_address_certificate_and_key(config, tmp_path):
    def with_supernode(**changes):
        section = config.supernode.model_copy(update=changes)
        return config.model_copy(update={"supernode": section})

    with pytest.raises(ConfigurationError, match=r"supernode\.address"):
        supernode_arguments(config)
    with pytest.raises(ConfigurationError, match=r"supernode\.root_certificates is not set"):
        supernode_arguments(with_supernode(address="h:1"))
    absent = tmp_path / "ca.crt"
    with pytest.raises(ConfigurationError, match="there is no file"):
        supernode_arguments(with_supernode(address="h:1", root_certificates=absent))
    absent.write_text("ca", encoding="ascii")
    key = tmp_path / "node"
    key.write_text("key", encoding="ascii")
    found = supernode_arguments(with_supernode(address="h:1", root_certificates=absent, key=key))
    assert found[1:] == [
        *("--superlink", "h:1", "--root-certificates", str(absent)),
        *("--auth-supernode-private-key", str(key)),
        *("--node-config", f'agent="{config.agent.shared}"', "--isolation", "subprocess"),
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_both_run_as_their_users_and_end_with_whoever_started_them(number):
    with consortium(1) as found:
        house = found.houses[0]
        with house.config.open("a", encoding="utf-8") as file:
            file.write('[supernode]\naddress = "127.0.0.1:1"\ninsecure = true\n')
        text = house.config.read_text(encoding="utf-8")
        named = text.replace("[data.table]", f'[data.table]\npassword_env = "{PASSWORD}"', 1)
        house.config.write_text(named, encoding="utf-8")
        house.shared.parent.parent.mkdir()
        house.shared.parent.mkdir()
        os.chown(house.shared.parent, AGENT, AGENT)
        fake = found.directory / "fake-supernode"
        fake.write_text('#!/bin/sh\nenv > "$FLWR_HOME/env"\nexec sleep 100\n', encoding="ascii")
        fake.chmod(0o755)
        # Its interpreter is reached by root alone, perhaps: the fake agent wants another.
        python = Path("/usr/bin/python3")
        if not python.exists():
            pytest.skip("there is no /usr/bin/python3 for the other user")
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", SUPERVISE.replace("sys.executable", repr(str(python)))),
                *(str(house.config), str(fake), LISTEN, "agent"),
            ],
            cwd=ROOT,
            env={**os.environ, "FGCIF_TEST_SECRET": "x", PASSWORD: "y"},
        )
        try:
            noted = house.shared.parent.parent / "supernode" / "env"
            wait_until(lambda: noted.exists() and noted.read_text(encoding="utf-8"))
            wait_until(lambda: len(children(process.pid)) == 2)
            users = {os.stat(f"/proc/{one}").st_uid for one in children(process.pid)}
            assert users == {AGENT, SUPERNODE}
            started = children(process.pid)
            said = noted.read_text(encoding="utf-8")
            assert "FLWR_TELEMETRY_ENABLED=0" in said
            assert "FGCIF_TEST_SECRET" not in said
            assert PASSWORD not in said
            (agent,) = (one for one in started if os.stat(f"/proc/{one}").st_uid == AGENT)
            given = Path(f"/proc/{agent}/environ").read_bytes()
            assert f"{PASSWORD}=y".encode() in given
            assert b"FGCIF_TEST_SECRET" not in given
            assert b"PYTHONSAFEPATH=1" in given
            assert "PYTHONSAFEPATH=1" in said
            for one in started:
                assert os.readlink(f"/proc/{one}/cwd") == "/"
                outputs = {os.readlink(f"/proc/{one}/fd/{number}") for number in (1, 2)}
                assert all(name.startswith("pipe:") for name in outputs)
        finally:
            process.send_signal(number)
            code = process.wait(30)
        assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        wait_until(lambda: not any(alive(one) for one in started), 10)


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task")
    try:
        found = [(task / "children").read_text(encoding="ascii") for task in tasks.iterdir()]
    except OSError:
        return []
    return [int(one) for text in found for one in text.split()]


def test_a_supervisor_without_an_agent_says_so():
    with consortium(1) as found:
        house = found.houses[0]
        with house.config.open("a", encoding="utf-8") as file:
            file.write('[supernode]\naddress = "127.0.0.1:1"\ninsecure = true\n')
        done = subprocess.run(
            [sys.executable, "-c", SUPERVISE, str(house.config), "/bin/true", LISTEN, "none"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "AgentNotRunningError" in done.stderr
