"""The secure sum in somebody else's Flower app: one mod, one strategy, nothing else of ours."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, FedProx, Krum

from fgcif_flwr.errors import (
    CohortError,
    ConfigurationError,
    OutOfRangeError,
    PolicyError,
    SecureSumError,
)
from fgcif_flwr.federation import SecureSumMod
from fgcif_flwr.federation.envelope import enclosed_type
from fgcif_flwr.federation.inline_grid import InlineGrid, node_id
from fgcif_flwr.federation.records import (
    INPUT,
    reply_from_records,
)
from fgcif_flwr.federation.requests import Refusal
from fgcif_flwr.privacy.policy import Policy
from tests.somebody_elses_app import (
    CLIENTS,
    ROOT,
    SECRET,
    TERMS,
    Train,
    app_of,
    expected,
    moved,
    octets,
    reply,
    secure,
    start,
    with_errors_shown,
)

PAGE = ROOT / "docs" / "secure-aggregation.md"


def example(side: str, replaced: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a code block of the page and return its names."""
    pattern = rf"<!-- example: {side} -->\n```python\n(.*?)^```$"
    (code,) = re.findall(pattern, PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for old, new in (replaced or {}).items():
        assert old in code
        code = code.replace(old, new)
    names: dict[str, Any] = {"__name__": f"example_{side}"}
    exec(compile(code, f"{PAGE.name}: {side}", "exec", dont_inherit=True), names)
    return names


def in_the_clear() -> tuple[Callable[..., Any], ClientApp]:
    """The page's example with its two lines taken away."""
    server = example("server", {"SecureSumStrategy(FedAvg(), terms, clients=5)": "FedAvg()"})
    client = example("client", {"mods=[SecureSumMod.simulated()]": ""})
    return server["serve"], client["app"]


# The page's example


def test_the_example_of_the_page_gives_what_fedavg_gives():
    grid = InlineGrid(example("client")["app"], CLIENTS, {})
    result = example("server")["serve"](grid)
    serve, app = in_the_clear()
    plain = serve(InlineGrid(app, CLIENTS, {}))
    # Each of 3 rounds rounds 5 values by at most one step of 2 / 2^21, scaled by 100 / 300.
    bound = 3 * 5 * 2.0 / 2**21 * 100 / 300
    got, wanted = (one.arrays.to_numpy_ndarrays()[0] for one in (result, plain))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2 * bound)
    assert got.tobytes() != wanted.tobytes()
    for got, wanted in (
        (result.train_metrics_clientapp, plain.train_metrics_clientapp),
        (result.evaluate_metrics_clientapp, plain.evaluate_metrics_clientapp),
    ):
        assert list(got) == list(wanted) == [1, 2, 3]
        for number in got:
            assert dict(got[number]) == pytest.approx(dict(wanted[number]), abs=1e-4)
    first, last = (result.evaluate_metrics_clientapp[number]["mse"] for number in (1, 3))
    assert last < first / 2


def plain_arrays_of(seen: list[Message], held: list[np.ndarray]) -> int:
    """How many clients' arrays can be found in the messages, whole or one number of them."""
    blobs = [octets(message) for message in seen]
    needles = [np.ascontiguousarray(array[i : i + 1]).tobytes() for array in held for i in (0, 2)]
    return sum(any(needle in blob for blob in blobs) for needle in needles)


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "plain"])
def test_no_message_of_the_example_holds_a_clients_arrays(masked):
    names = example("client")
    serve, app = (example("server")["serve"], names["app"]) if masked else in_the_clear()
    grid, seen = with_errors_shown(app)
    serve(grid)
    # What each client computes in the first round, from zeros.
    held = []
    for client in range(CLIENTS):
        x, y = names["rows_of"](client)
        weights = np.zeros(3)
        for _ in range(5):
            weights = weights - 0.1 * x.T @ (x @ weights - y) / len(y)
        held.append(weights)
    found = plain_arrays_of(seen, held)
    assert found == (0 if masked else 2 * CLIENTS)  # the same search finds all without the mod
    if masked:
        replies = [one for one in seen if one.metadata.dst_node_id == 1]
        assert replies
        assert not any(one.has_error() or one.content.array_records for one in replies)
        assert not any(one.content.metric_records for one in replies)


# Strategies


@pytest.mark.parametrize(
    "inner",
    [
        lambda: FedAdam(fraction_evaluate=0.0, eta=0.1, tau=0.1),
        lambda: FedAvgM(fraction_evaluate=0.0, server_momentum=0.9),
        lambda: FedProx(fraction_evaluate=0.0, proximal_mu=0.5),
    ],
    ids=["FedAdam", "FedAvgM", "FedProx"],
)
def test_strategies_that_average_work_unmodified(inner):
    model = {"w": np.linspace(-1, 1, 6).reshape(2, 3), "b": np.array(0.5)}
    plain_app = ClientApp()
    plain_app.train()(moved)
    plain = start(inner(), InlineGrid(plain_app, CLIENTS, {}), 3, **model)
    result = start(secure(inner()), InlineGrid(app_of(moved), CLIENTS, {}), 3, **model)
    assert list(result.arrays) == ["w", "b"]
    for name, array in model.items():
        got = result.arrays[name].numpy()
        assert got.shape == array.shape
        np.testing.assert_allclose(got, plain.arrays[name].numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("inner", "why"),
    [
        (lambda: Krum(), "own reply"),
        (lambda: FedMedian(), "own reply"),
        (lambda: FedAvg(fraction_train=0.5), "fraction_train is 0.5"),
    ],
    ids=["Krum", "FedMedian", "sampling"],
)
def test_strategies_that_need_single_replies_or_sample_are_refused(inner, why):
    with pytest.raises(ConfigurationError, match=why):
        secure(inner())


def test_the_apps_function_receives_what_it_would_without_the_secure_sum():
    seen: list[Message] = []

    def train(message: Message, context: Context) -> Message:
        seen.append(message)
        return moved(message, context)

    values = {"rate": 0.1, "steps": 3, "on": True, "name": "x", "key": b"\0\xff", "few": [1, 2]}
    model = {"z": np.zeros(2, np.float32), "a": np.array(7), "e": np.zeros((0, 3))}
    record = ArrayRecord({name: Array(array) for name, array in model.items()})
    terms = replace(TERMS, update_bounds={"a": 1000.0})
    secure(terms=terms).start(
        InlineGrid(app_of(train), CLIENTS, {}),
        record,
        num_rounds=1,
        train_config=ConfigRecord(values),
    )
    assert len(seen) == CLIENTS
    for message in seen:
        assert message.metadata.message_type == "train"
        assert set(message.content) == {"arrays", "config"}
        got = dict(message.content["config"])
        assert got == {**values, "server-round": 1}
        assert {key: type(value) for key, value in got.items() if key != "server-round"} == {
            key: type(value) for key, value in values.items()
        }
        assert list(message.content["arrays"]) == ["z", "a", "e"]
        for name, array in model.items():
            received = message.content["arrays"][name].numpy()
            assert (received.dtype, received.shape) == (array.dtype, array.shape)


# Loss and failure


def test_a_lost_client_costs_neither_the_round_nor_the_run():
    lost = node_id(1)

    def silent(message: Message) -> bool:
        return message.metadata.dst_node_id == lost and enclosed_type(message) == "train.release"

    strategy = secure()
    result = start(strategy, InlineGrid(app_of(moved), CLIENTS, {}, lose_before=silent))
    np.testing.assert_allclose(result.arrays["w"].numpy(), expected((0, 2, 3, 4)), atol=1e-4)
    assert strategy.last.dropped == ("client-000001",)


def test_an_exception_with_a_secret_stays_at_its_client_and_the_sum_goes_on(caplog):
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 2:
            raise ValueError(SECRET)
        return moved(message, context)

    grid, seen = with_errors_shown(app_of(train))
    strategy = secure()
    result = start(strategy, grid)
    assert strategy.last.failed == 1
    assert len(strategy.last.survivors) == CLIENTS
    np.testing.assert_allclose(result.arrays["w"].numpy(), expected((0, 1, 3, 4)), atol=1e-4)
    assert not any(SECRET.encode() in octets(message) for message in seen)
    assert not any(message.has_error() for message in seen)
    assert SECRET in caplog.text  # of the client, whose log it is


@pytest.mark.parametrize(
    "wrong",
    [
        lambda m: reply(m, {"w": np.zeros(5)}, num_examples=10, loss=1.0),
        lambda m: reply(m, {"v": np.zeros(4)}, num_examples=10, loss=1.0),
        lambda m: reply(m, {"w": np.zeros(4)}, num_examples=10),
        lambda m: reply(m, {"w": np.zeros(4)}, num_examples=101, loss=1.0),
        lambda m: reply(m, {"w": np.zeros(4)}, num_examples=-1, loss=1.0),
        lambda m: reply(m, {"w": np.full(4, np.nan)}, num_examples=10, loss=1.0),
        lambda m: reply(m, {"w": np.full(4, 50.0)}, num_examples=10, loss=1.0),
        lambda m: sys.exit(SECRET),
        lambda m: None,
    ],
    ids=[
        "wrong shape",
        "other arrays",
        "no metric",
        "too many examples",
        "negative weight",
        "not a number",
        "beyond its bound",
        "exits",
        "no reply",
    ],
)
def test_what_does_not_fit_the_terms_counts_as_zeros(wrong):
    def train(message: Message, context: Context) -> Message:
        good = context.node_config["partition-id"] != 0
        return moved(message, context) if good else wrong(message)

    grid, seen = with_errors_shown(app_of(train))
    strategy = secure()
    result = start(strategy, grid)
    assert strategy.last.failed == 1
    np.testing.assert_allclose(result.arrays["w"].numpy(), expected((1, 2, 3, 4)), atol=1e-4)
    asked = {m.metadata.message_id for m in seen if enclosed_type(m) == "train.release"}
    replies = [one for one in seen if one.metadata.reply_to_message_id in asked]
    assert len(replies) == CLIENTS
    assert len({len(octets(one)) for one in replies}) == 1  # whatever happened behind them
    assert not any(SECRET.encode() in octets(one) for one in replies)


def test_where_more_fail_than_tolerated_the_run_ends_and_says_what_to_raise():
    def train(message: Message, context: Context) -> Message:
        return reply(message, {"w": np.full(4, 500.0)}, num_examples=100, loss=1.0)

    with pytest.raises(OutOfRangeError, match="raise update_bound"):
        start(secure(retries=0), InlineGrid(app_of(train), CLIENTS, {}))


# What the mod refuses


def calls(train: Train) -> tuple[Train, list[str]]:
    called: list[str] = []

    def counted(message: Message, context: Context) -> Message:
        called.append(message.metadata.message_type)
        return train(message, context)

    return counted, called


@pytest.mark.parametrize("kind", ["train", "evaluate", "query"])
def test_a_plain_message_is_refused_and_the_app_is_not_called(kind):
    train, called = calls(moved)
    app = app_of(train)
    app.evaluate()(train)
    app.query()(train)
    grid = InlineGrid(app, CLIENTS, {})
    model = ArrayRecord({"w": Array(np.zeros(4))})
    content = RecordDict({"arrays": model, "config": ConfigRecord({})})
    (answer,) = grid.send_and_receive([Message(content, node_id(0), kind)])
    assert answer.has_error()
    assert "only the secure sum" in answer.error.reason
    assert called == []


def test_plain_fedavg_learns_nothing_from_clients_with_the_mod():
    train, called = calls(moved)
    result = start(FedAvg(fraction_evaluate=0.0), InlineGrid(app_of(train), CLIENTS, {}))
    assert called == []
    assert not result.arrays


def test_a_query_that_was_named_unprotected_is_answered():
    app = app_of(moved, SecureSumMod.simulated(unprotected=["query.version"]))
    app.query("version")(lambda message, _: Message(RecordDict(), reply_to=message))
    app.query("other")(lambda message, _: Message(RecordDict(), reply_to=message))
    grid = InlineGrid(app, CLIENTS, {})
    asked = [Message(RecordDict(), node_id(0), kind) for kind in ("query.version", "query.other")]
    version, other = grid.send_and_receive(asked)
    assert version.has_content()
    assert other.has_error()
    with pytest.raises(ConfigurationError, match="only queries"):
        SecureSumMod.simulated(unprotected=["train"])


def tampered(change: Callable[[Message], None], victims: int) -> type[InlineGrid]:
    """A grid that changes the releases to the first ``victims`` clients."""

    class Tampering(InlineGrid):
        def deliver(self, messages: list[Message]) -> list[Message]:
            for message in messages:
                if enclosed_type(
                    message
                ) == "train.release" and message.metadata.dst_node_id < node_id(victims):
                    change(message)
            return super().deliver(messages)

    return Tampering


def put(message: Message, name: str, array: np.ndarray) -> None:
    arrays = ArrayRecord(dict(message.content[INPUT].items()))
    arrays[name] = Array(array)
    message.content[INPUT] = arrays


@pytest.mark.parametrize(
    "change",
    [
        lambda m: put(m, "arrays/w", np.zeros(5, np.float32)),
        lambda m: put(m, "arrays/w", np.full(4, np.inf, np.float32)),
        lambda m: put(m, "arrays/v", np.zeros(4, np.float32)),
        lambda m: put(m, "config", np.zeros(4, np.uint8)),
    ],
    ids=["shape", "not finite", "unknown array", "configuration"],
)
def test_a_release_whose_input_is_not_as_agreed_is_refused_before_the_app_is_called(change):
    train, called = calls(moved)
    strategy = secure()
    start(strategy, tampered(change, 1)(app_of(train), CLIENTS, {}))
    assert strategy.last.dropped == ("client-000000",)
    assert len(called) == CLIENTS - 1


def test_another_model_for_one_client_gives_no_mean():
    grid = tampered(lambda m: put(m, "arrays/w", np.ones(4, np.float32)), 1)
    with pytest.raises(SecureSumError):
        start(secure(retries=0), grid(app_of(moved), CLIENTS, {}))


def test_a_client_has_limits_of_its_own(caplog):
    app = app_of(moved, SecureSumMod.simulated(most_value_bits=16))
    with pytest.raises(CohortError):
        start(secure(), InlineGrid(app, CLIENTS, {}))
    assert "above this client's most of 16" in caplog.text
    app = app_of(moved, SecureSumMod.simulated(policy=Policy(minimum_cohort=6, units={"none"})))
    with pytest.raises(PolicyError, match="below this enterprise's minimum_cohort of 6"):
        start(secure(), InlineGrid(app, CLIENTS, {}))


def test_a_malformed_request_is_refused_and_changes_nothing():
    app = app_of(moved)
    grid = InlineGrid(app, CLIENTS, {})
    for kind in ("query.join", "train.release", "query.nothing"):
        content = RecordDict({"fgcif.envelope": ConfigRecord({"type": kind})})
        (answer,) = grid.send_and_receive([Message(content, node_id(0), "train")])
        assert isinstance(reply_from_records(answer.content), Refusal)
    np.testing.assert_allclose(
        start(secure(), grid).arrays["w"].numpy(), expected(), rtol=0, atol=1e-4
    )


def test_a_seeded_rounding_repeats_and_an_unseeded_one_does_not():
    def run(**seed: int) -> bytes:
        app = app_of(moved, SecureSumMod.simulated(**seed))
        model = {"w": np.zeros(200)}
        return start(secure(), InlineGrid(app, CLIENTS, {}), **model).arrays["w"].numpy().tobytes()

    assert run(rounding_seed=3) == run(rounding_seed=3)
    assert run() != run()  # equal with probability below 2^-100


def test_the_mod_starts_without_the_heavy_libraries():
    script = (
        "from fgcif_flwr.federation import SecureSumMod\nimport sys\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"torch", "pyarrow", "duckdb", "sklearn", "ray", "scipy"}
    assert "flwr" in done.stdout
    assert not heavy & set(ast.literal_eval(done.stdout.splitlines()[-1]))
