"""No refusal, error or log outside an enterprise says anything of a customer."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from flwr.app import Context, Message

from client_app.app import app as client_app
from fgcif_flwr.config import RunConfig, SimulatorSection, flatten
from fgcif_flwr.data.simulator import simulate_customers
from fgcif_flwr.enterprise.tasks import Tasks
from fgcif_flwr.errors import CohortError, FgcifError, OutOfRangeError, ValueOutOfKindError
from fgcif_flwr.federation.inline_grid import InlineGrid
from fgcif_flwr.federation.records import (
    reply_from_records,
)
from fgcif_flwr.federation.requests import Refusal
from fgcif_flwr.federation.traffic import MeteredGrid
from fgcif_flwr.privacy.outcomes import OUTCOMES
from fgcif_flwr.reporting.run_directory import RunDirectory
from server_app.stages import run_stages, write_failure
from tests.recorded_run import (
    ENTERPRISES,
    configured,
    findings_of_form,
    raw,
    recorded,
)

torch.set_num_threads(1)


def customer_words(table: pa.Table) -> set[str]:
    """Ids and sums of money of a table as they would be written, rounded or not.

    Shares and counts are left out: figures of a whole federation may equal them by chance.
    """
    words = set(table.column("customer_id").to_pylist())
    for name in ("spend", "average_order", "future_value"):
        for number in table.column(name).drop_null().to_pylist():
            words |= {repr(number), f"{number:.4f}", f"{number:.2f}"}
    return {word for word in words if len(word) >= 6}


def spoken(words: set[str], texts: Iterable[str]) -> list[str]:
    """Return the words that are in the texts; a number within a longer number is not."""
    text = "\n".join(texts)
    return [
        word
        for word in sorted(words)
        if word in text and re.search(rf"(?<![\d.]){re.escape(word)}(?!\d)", text)
    ]


def refusals(messages: Iterable[Message]) -> list[str]:
    replies = [reply_from_records(message.content) for message in messages]
    return [reply.reason for reply in replies if isinstance(reply, Refusal)]


OWN_LOGS = ("fgcif_flwr.enterprise.enterprise", "fgcif_flwr.privacy.door")
"""Loggers of what runs inside an enterprise; its own log is kept there."""


def fail(
    config: RunConfig, caplog: pytest.LogCaptureFixture, *, refused: bool
) -> tuple[FgcifError, list[str]]:
    """Run a federation that fails; return its error and all that was said outside enterprises.

    ``refused`` tells whether an enterprise may refuse anything on the way.
    """
    up: list[Message] = []
    caplog.set_level(logging.DEBUG)
    grid = MeteredGrid(
        InlineGrid(client_app, ENTERPRISES, flatten(config)),
        lambda message: up.append(message) if message.metadata.reply_to_message_id else None,
    )
    with pytest.raises(FgcifError) as caught:
        run_stages(grid, config)
    write_failure(config, caught.value)
    failure = Path(config.run.output, "failure.json").read_text(encoding="utf-8")
    logged = [
        record.getMessage() + repr(record.exc_text)
        for record in caplog.records
        if record.name not in OWN_LOGS
    ]
    assert bool(refusals(up)) == refused
    raw_texts = [raw(message).decode("latin-1") for message in up]
    return caught.value, [str(caught.value), failure, *refusals(up), *logged, *raw_texts]


def simulated_table(config: RunConfig) -> pa.Table:
    return simulate_customers(config.simulator, config.run.enterprises, config.run.seed)[0]


def at_one(enterprise: int, alter: Callable[[dict[str, np.ndarray]], None]):
    """Tasks.compute, but that the values of one enterprise's updates are altered in round 2."""
    compute = Tasks.compute

    def altered(self, task, arrays):
        values = compute(self, task, arrays)
        if self.rows.name.endswith(f"-{enterprise:02d}") and arrays.get("round") == [2]:
            alter(values)
        return values

    return altered


def _too_large(values: dict[str, np.ndarray]) -> None:
    values["update"][3] = 471181525342.25


def _not_finite(values: dict[str, np.ndarray]) -> None:
    values["loss"][:] = np.nan


def _raises(values: dict[str, np.ndarray]) -> None:
    raise ValueError("471181525342.25")


@pytest.mark.parametrize(
    ("alter", "outcome"),
    [(_too_large, "out_of_range"), (_not_finite, "out_of_range"), (_raises, "failed")],
)
def test_what_fails_at_one_enterprise_is_seen_by_nobody_but_as_a_count(
    tmp_path, caplog, monkeypatch, alter, outcome
):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(Tasks, "compute", at_one(2, alter))
    config = configured(tmp_path)
    recording = recorded(config)
    # Every reply has the known fields and sizes, and none is a refusal.
    assert findings_of_form(recording) == []
    assert refusals(recording.up) == []
    # What left is zeros and the count, under masks that are seen to be on.
    told = np.zeros(recording.layouts[3].size, np.int64)
    told[OUTCOMES.index(outcome)] = 1
    assert np.array_equal(recording.encoded[2, 3], told)
    assert all(not words[:2].any() for key, words in recording.encoded.items() if key != (2, 3))
    masked = next(words for key, words, _ in recording.vectors() if key == (2, 3))
    # P(a masked word is 0 or 1) is 2 x 2^-b for each; three or more by chance: under 1e-7 of runs.
    assert (2 * len(masked) / 2**recording.form.bits) ** 3 < 1e-7
    assert int((masked <= 1).sum()) <= 2
    history = RunDirectory(tmp_path).read_history()
    assert [(row["survivors"], row["dropped"]) for row in history] == [(6, 0), (5, 1), (6, 0)]
    # Its release log has the line that any enterprise's has.
    logs = [
        [
            {key: value for key, value in json.loads(line).items() if key != "time"}
            for line in file.read_text(encoding="utf-8").splitlines()
        ]
        for file in sorted((tmp_path / "releases").glob("*.jsonl"))
    ]
    assert len(logs) == ENTERPRISES
    assert all(log == logs[0] for log in logs)
    assert [line["slot"] for line in logs[2]] == [1, 2, 3, 4, 5]
    said = [record.getMessage() for record in caplog.records if record.name not in OWN_LOGS]
    said += [raw(message).decode("latin-1") for message in recording.up]
    assert any(str({**dict.fromkeys(OUTCOMES, 0), outcome: 1}) in text for text in said)
    assert not any("471181525342" in text for text in said)
    warnings = [
        r.getMessage()
        for r in caplog.records
        if r.name.startswith("fgcif_flwr.federation.") and "zeros" in r.getMessage()
    ]
    assert len(warnings) == 1
    assert "enterprise-" not in warnings[0]


def test_values_out_of_range_end_the_run_with_their_number_and_without_a_value(tmp_path, caplog):
    config = configured(tmp_path, {"secagg.value_bound": 1e-6})
    error, texts = fail(config, caplog, refused=False)
    assert isinstance(error, OutOfRangeError)
    assert "6 of 6 enterprises" in str(error)
    assert spoken(customer_words(simulated_table(config)), texts) == []
    # The bound and no other small number is named.
    assert set(re.findall(r"\d\.?\d*e-\d+", str(error))) == {"1e-06"}


def test_a_value_out_of_its_kind_is_refused_without_the_value(tmp_path, caplog):
    table = simulated_table(configured(tmp_path))
    texts = [None if v is None else repr(v) for v in table.column("spend").to_pylist()]
    texts[7] = "SECRET-4711"
    position = table.column_names.index("spend")
    broken = table.set_column(position, "spend", pa.array(texts, pa.string()))
    pq.write_table(broken, tmp_path / "crm.parquet")
    config = configured(tmp_path / "out", {"data.table": str(tmp_path / "crm.parquet")})
    error, said = fail(config, caplog, refused=True)
    assert isinstance(error, ValueOutOfKindError)
    assert spoken(customer_words(table) | {"SECRET-4711"}, said) == []


def test_an_exception_that_quotes_a_row_stays_in_the_enterprises_own_log(
    tmp_path, caplog, monkeypatch
):
    config = configured(tmp_path, {"run.retries": 1})
    table = simulated_table(config)
    quoted = customer_words(table.slice(0, 5))

    def failing(self, task, arrays):
        raise ValueError(f"cannot use {sorted(quoted)}")

    monkeypatch.setattr(Tasks, "compute", failing)
    error, said = fail(config, caplog, refused=False)
    assert error.exit_code == 31
    assert spoken(customer_words(table), said) == []
    own = [r for r in caplog.records if r.name in OWN_LOGS]
    assert own
    assert spoken(quoted, [str(record.exc_info[1]) for record in own if record.exc_info])


def test_a_clientapp_that_raises_tells_the_coordinator_the_kind_of_error_only(tmp_path):
    replies: list[Message] = []

    def raising(message: Message, context: Context) -> Message:
        raise RuntimeError("customer C-1 spent 815.25")

    config = configured(tmp_path)
    grid = InlineGrid(raising, ENTERPRISES, flatten(config))
    with pytest.raises(CohortError):
        run_stages(MeteredGrid(grid, replies.append), config)
    errors = [message.error for message in replies if message.has_error()]
    assert errors
    assert all("815" not in f"{error.code} {error.reason}" for error in errors)


def test_a_run_that_succeeds_says_nothing_of_a_customer(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    config = configured(tmp_path, {"run.rounds": 1})
    run_stages(InlineGrid(client_app, ENTERPRISES, flatten(config)), config)
    said = [record.getMessage() for record in caplog.records]
    said += [
        file.read_text(encoding="utf-8") for file in sorted((tmp_path / "releases").glob("*.jsonl"))
    ]
    assert len(said) > ENTERPRISES
    assert spoken(customer_words(simulated_table(config)), said) == []


def test_words_of_a_customer_would_be_found(tmp_path):
    table, _ = simulate_customers(SimulatorSection(customers=40), ENTERPRISES, 0)
    words = customer_words(table)
    spend = next(value for value in table.column("spend").to_pylist() if value)
    text = f"row of {table.column('customer_id')[3].as_py()} with spend {spend!r}, refused"
    assert len(spoken(words, [text])) >= 2
