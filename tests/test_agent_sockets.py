"""The agent's two sockets: who is let in, what is read, and when a reply leaves."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import socket
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from fgcif_flwr.enterprise.agent import protocol, reading, shared_app
from fgcif_flwr.enterprise.agent.admin import call
from fgcif_flwr.enterprise.agent.admin_app import AdminSocket
from fgcif_flwr.enterprise.agent.agent import Outcome
from fgcif_flwr.enterprise.agent.operation import Answer, Operation
from fgcif_flwr.enterprise.agent.own_log import EVENT, JsonLines, log_event
from fgcif_flwr.enterprise.agent.protocol import GuardedConfig, QuietServer, TurnedAway
from fgcif_flwr.enterprise.agent.server import flush_denormals
from fgcif_flwr.enterprise.agent.shared_app import SharedSocket, leaves_after
from fgcif_flwr.enterprise.agent.sockets import ADMIN_MODES, SHARED_MODES, listen
from fgcif_flwr.enterprise.agent.state_lock import state_lock
from fgcif_flwr.errors import (
    AgentNotRunningError,
    BudgetExhaustedError,
    ConfigurationError,
    FgcifError,
    PolicyError,
)
from fgcif_flwr.federation.agent_body import CONTENT_TYPE, read_reply, write_reply
from fgcif_flwr.federation.agent_http import BrokenOffError, NobodyAnswersError, post
from fgcif_flwr.federation.requests import Refusal

ME = frozenset({os.geteuid()})


class Slow:
    """An agent that takes its time, and tells how many it answers at once."""

    def __init__(self, seconds=0.0, from_rows=False):
        self.seconds, self.from_rows = seconds, from_rows
        self.now = self.most = self.count = 0

    def answer(self, path, body):
        self.now += 1
        self.count += 1
        self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        self.now -= 1
        said = Refusal(31, f"{path} {len(body)}")
        return Outcome(write_reply(said), self.from_rows)


@contextmanager
def served(app, path, allowed=ME):
    """Serve an application on a socket in a thread of this process."""
    sockets = listen(path, SHARED_MODES)
    server = QuietServer(GuardedConfig(app, "test", allowed))
    thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[sockets]),))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server
    finally:
        server.should_exit = True
        thread.join(30)
        sockets.close()


@contextmanager
def shared(path, agent=None, **settings):
    with ThreadPoolExecutor(1) as one:
        settings = {"most": 10_000, "release_seconds": 0.0, **settings}
        allowed = settings.pop("allowed", ME)
        found = SharedSocket(agent or Slow(), one, **settings)
        with served(found.app(), path, allowed) as server:
            yield SimpleNamespace(socket=found, server=server)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s" / "agent.sock"


def said(answer):
    return read_reply(answer.body).reason


def ask(path, body=b"x", target="/v1/release", **more):
    return post(str(path), target, body, CONTENT_TYPE, more.get("timeout", 20))


def raw(path, data, wait=10.0):
    """Send bytes; return what comes until the other side ends."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(wait)
        one.connect(str(path))
        one.sendall(data)
        found = b""
        while True:
            try:
                more = one.recv(4096)
            except ConnectionResetError:
                return found
            if not more:
                return found
            found += more


def test_a_request_is_answered(path):
    with shared(path):
        assert said(ask(path, b"abc")) == "/v1/release 3"


def test_whoever_is_not_the_supernodes_user_is_cut_off_unheard(path, caplog):
    caplog.set_level(logging.INFO)
    with shared(path, allowed=frozenset({os.geteuid() + 1})):
        with pytest.raises(BrokenOffError):
            ask(path)
        assert raw(path, b"") == b""
    (refused, *_) = [
        getattr(record, EVENT, None) for record in caplog.records if hasattr(record, EVENT)
    ]
    assert (refused["event"], refused["user"], refused["reason"]) == (
        "connection",
        os.geteuid(),
        "user",
    )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("content-length: 10001", b"413"),
        ("content-length: 99999999999999999999999", b"400"),
        ("content-length: -1", b"400"),
        ("transfer-encoding: chunked", b"411"),
        ("x: y", b"411"),
        ("content-length: 3\r\ntransfer-encoding: chunked", b"41"),
    ],
)
def test_what_announces_no_lawful_size_is_turned_away_unread(path, headers, status):
    agent = Slow()
    with shared(path, agent):
        found = raw(path, f"POST /v1/release HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n".encode())
        assert status in found.split(b"\r\n")[0]
        assert agent.count == 0


def test_a_long_header_is_cut_off(path):
    with shared(path):
        found = raw(path, b"POST /v1/release HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 20_000)
        assert b"400" in found.split(b"\r\n")[0]


@pytest.mark.parametrize("target", ["/v1/score", "/", "/v1/release/", "/v1/join/../score"])
def test_there_are_four_paths_and_no_more(path, target):
    with shared(path) as found:
        answer = ask(path, target=target)
        assert answer.status == 404
        assert found.socket.agent.count == 0


def test_a_header_that_never_ends_is_cut_off(path, monkeypatch):
    monkeypatch.setattr(protocol, "SECONDS_TO_ASK", 0.2)
    with shared(path):
        began = time.monotonic()
        assert raw(path, b"POST /v1/release HTTP/1.1\r\nhost: a") == b""
        assert time.monotonic() - began < 5
        assert raw(path, b"") == b""


def test_a_body_that_never_ends_is_cut_off_and_the_next_request_answered(path, monkeypatch):
    monkeypatch.setattr(reading, "_SECONDS", 0.2)
    with shared(path) as found:
        head = b"POST /v1/release HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\nabc"
        assert b"408" in raw(path, head)
        assert found.socket.agent.count == 0
        assert said(ask(path)) == "/v1/release 1"


def test_one_request_a_connection(path):
    with shared(path) as found:
        one = b"POST /v1/release HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx"
        assert raw(path, one * 3).count(b"HTTP/1.1") == 1
        assert found.socket.agent.count == 1


def test_one_connection_after_the_other_is_let_in_up_to_a_bound(path, monkeypatch):
    monkeypatch.setattr(protocol, "MOST_CONNECTIONS", 3)
    with shared(path):
        held = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        try:
            for one in held:
                one.connect(str(path))
            time.sleep(0.2)
            with pytest.raises(BrokenOffError):
                ask(path)
        finally:
            for one in held:
                one.close()
        time.sleep(0.2)
        assert said(ask(path)) == "/v1/release 1"


def test_requests_are_answered_one_at_a_time_and_a_crowd_is_sent_away(path):
    agent = Slow(0.3)
    with shared(path, agent), ThreadPoolExecutor(8) as several:
        answers = list(several.map(lambda _: ask(path), range(8)))
    statuses = sorted(answer.status for answer in answers)
    assert agent.most == 1
    assert statuses == [200] * (1 + shared_app.MOST_WAITING) + [409] * 3
    refused = next(answer for answer in answers if answer.status == 409)
    assert read_reply(refused.body).code == 36


def test_the_next_reply_does_not_tell_when_computing_ended(path):
    agent = Slow(0.05, from_rows=True)
    with shared(path, agent, release_seconds=0.4), ThreadPoolExecutor(2) as several:
        began = time.monotonic()
        first = several.submit(ask, path)
        time.sleep(0.1)
        agent.from_rows = False
        ask(path, target="/v1/unmask")
        second_left = time.monotonic() - began
        first.result()
    assert second_left >= 0.4


def test_a_stop_lets_the_request_in_work_end_and_turns_the_others_away(path):
    agent = Slow(0.4)
    with shared(path, agent) as found, ThreadPoolExecutor(2) as several:
        first = several.submit(ask, path)
        time.sleep(0.15)
        second = several.submit(ask, path)
        time.sleep(0.1)
        found.socket.stopping = True
        found.server.should_exit = True
        assert first.result().status == 200
        assert second.result().status == 503
        assert agent.count == 1


@given(st.floats(0, 1e4), st.floats(1e-3, 10))
def test_a_reply_leaves_at_a_unit_times_a_power_of_two(taken, unit):
    leaves = leaves_after(taken, unit)
    assert leaves >= taken
    power = leaves / unit
    assert power == 2 ** round(math.log2(power))
    assert leaves == unit or leaves / 2 < taken


def test_without_a_unit_a_reply_leaves_when_it_is_ready():
    assert leaves_after(0.123, 0.0) == 0.123


def test_directories_and_files_have_the_rights_that_the_kernel_wants(tmp_path):
    for name, modes in (("shared", SHARED_MODES), ("admin", ADMIN_MODES)):
        made = tmp_path / "deep" / name / "agent.sock"
        old = os.umask(0o077)
        try:
            listen(made, modes).close()
        finally:
            os.umask(old)
        assert stat.S_IMODE(made.parent.stat().st_mode) == modes[0]
        assert stat.S_IMODE(made.stat().st_mode) == modes[1]
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o711


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(path):
    first = listen(path, SHARED_MODES)
    with pytest.raises(ConfigurationError, match="already"):
        listen(path, SHARED_MODES)
    first.close()  # as a process that was killed leaves it
    listen(path, SHARED_MODES).close()
    path.unlink()
    path.write_text("mine", encoding="ascii")
    with pytest.raises(ConfigurationError, match="no socket"):
        listen(path, SHARED_MODES)
    assert path.read_text(encoding="ascii") == "mine"


def test_a_directory_that_others_can_write_is_refused(path):
    path.parent.mkdir(mode=0o700)
    path.parent.chmod(0o730)
    with pytest.raises(PolicyError, match="chmod"):
        listen(path, SHARED_MODES)
    path.parent.chmod(0o711)
    path.parent.parent.chmod(0o777)
    with pytest.raises(PolicyError, match="above it"):
        listen(path, SHARED_MODES)


def test_a_link_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "s").symlink_to(tmp_path / "there")
    with pytest.raises(ConfigurationError, match="no directory"):
        listen(tmp_path / "s" / "agent.sock", SHARED_MODES)


def test_a_path_that_the_kernel_would_cut_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="107 bytes"):
        listen(tmp_path / ("x" * 100) / "agent.sock", SHARED_MODES)


def test_a_second_process_on_the_same_state_is_refused(tmp_path):
    with (
        state_lock(tmp_path),
        pytest.raises(ConfigurationError, match="already"),
        state_lock(tmp_path),
    ):
        pass
    with state_lock(tmp_path):
        pass


class Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int = 0


def admin_operations():
    def double(site, request):
        return Answer({"double": 2 * request.number, "site": site}, warnings=("careful",))

    def rows(site, request):
        return Answer({"of": "rows"}, pa.table({"a": list(range(request.number))}), ("many",))

    def broke(site, request):
        raise BudgetExhaustedError("epsilon 3 is spent")

    def broken(site, request):
        raise ValueError("could not convert 'ANNA MUSTER'")

    return {f.__name__: Operation(Wanted, f) for f in (double, rows, broke, broken)}


@pytest.fixture
def admin(path):
    with ThreadPoolExecutor(2) as several:
        app = AdminSocket("here", admin_operations(), several, 1000).app()
        with served(app, path):
            yield SimpleNamespace(agent=SimpleNamespace(admin=path))


def test_an_operation_is_answered_with_what_it_gives(admin):
    answer = call(admin, "double", Wanted(number=4))
    assert answer == Answer({"double": 8, "site": "here"}, None, ("careful",))


@pytest.mark.parametrize("count", [0, 3, 100_000])
def test_an_operation_answers_with_a_table(admin, count):
    answer = call(admin, "rows", Wanted(number=count))
    assert (answer.result, answer.warnings) == ({"of": "rows"}, ("many",))
    assert answer.table is not None
    assert answer.table.num_rows == count
    assert answer.table.schema.metadata is None


def test_an_operations_error_is_raised_with_its_class_and_words(admin):
    with pytest.raises(BudgetExhaustedError, match="epsilon 3 is spent"):
        call(admin, "broke", Wanted())


def test_an_error_that_is_none_of_ours_tells_nothing(admin, caplog):
    with pytest.raises(FgcifError) as caught:
        call(admin, "broken", Wanted())
    assert "ANNA" not in str(caught.value)
    lines = [JsonLines().format(record) for record in caplog.records]
    raised = [json.loads(line) for line in lines if "raised" in line]
    assert raised[0]["raised"] == "ValueError"
    assert any("broken" in frame for frame in raised[0]["at"])
    assert "ANNA" not in " ".join(lines)


def test_what_is_no_operation_or_no_request_of_it_is_refused(admin):
    class Other(BaseModel):
        number: str = "ANNA"
        more: int = 1

    with pytest.raises(ConfigurationError, match="no operation nothing"):
        call(admin, "nothing", Wanted())
    with pytest.raises(ConfigurationError) as caught:
        call(admin, "double", Other())
    assert "ANNA" not in str(caught.value)
    assert post(str(admin.agent.admin), "/v1/double", bytes(2000), "application/json").status == 413
    assert post(str(admin.agent.admin), "/", b"", "application/json").status == 404


def test_where_no_agent_runs_a_call_says_so(tmp_path):
    nowhere = SimpleNamespace(agent=SimpleNamespace(admin=tmp_path / "none.sock"))
    with pytest.raises(AgentNotRunningError, match="fgcif-client serve"):
        call(nowhere, "double", Wanted())
    with pytest.raises(NobodyAnswersError):
        post(str(tmp_path / "none.sock"), "/", b"", "")


def test_the_log_keeps_a_strangers_words_short_and_on_one_line(caplog):
    caplog.set_level(logging.INFO)
    log_event(
        logging.getLogger("x"), "request", outcome="refused", reason="a\nb\x1b[2J" + "c" * 9999
    )
    line = JsonLines().format(caplog.records[-1])
    assert "\n" not in line
    assert "\x1b" not in line
    found = json.loads(line)
    assert found["level"] == "warning"
    assert len(found["reason"]) == 500


def test_who_is_turned_away_often_fills_no_log():
    counts = TurnedAway()
    assert [counts.to_log(7, "user", now) for now in (0.0, 1.0, 2.0, 59.0)] == [1, 0, 0, 0]
    assert counts.to_log(8, "user", 3.0) == 1
    assert counts.to_log(7, "user", 61.0) == 4


def test_the_agents_thread_takes_numbers_next_to_zero_for_zero():
    def product() -> float:
        return float((torch.tensor([1e-38]) * torch.tensor([1e-3])).item())

    assert product() > 0
    with ThreadPoolExecutor(1, "agent", flush_denormals) as one:
        assert one.submit(product).result() == 0.0
