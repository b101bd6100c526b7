"""What coordinator and clients of somebody else's Flower app agree on for a secure sum.

The coordinator writes it into the manifest as canonical JSON; a client reads it from the manifest
that it accepted at join, and from nowhere else. It decides the layout of every vector:

========  ===========================================================================
task      fields
========  ===========================================================================
train     update of each array; weight; each metric of ``train_metrics``
evaluate  weight; each metric of ``evaluate_metrics``
========  ===========================================================================

Updates and metrics are multiplied by weight / ``most_examples``, so that the sum over clients is
the weighted sum, and each value stays within its bound.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fgcif_flwr.errors import ConfigurationError, OutOfRangeError, SecureSumError
from fgcif_flwr.federation.task_input import ArrayMap
from fgcif_flwr.secagg.encoding import Field, Reals, VectorLayout

TRAIN, EVALUATE = "train", "evaluate"
TASKS = (TRAIN, EVALUATE)
_CONFIG = "config"
_ARRAYS = "arrays/"
_UPDATE, _WEIGHT, _METRIC = "update/", "weight", "metric/"
_MOST_BITS = 48
_FORMAT = 1


@dataclass(frozen=True)
class SecureSumTerms:
    """Bounds of what one client adds to a sum; what is beyond them counts as zeros.

    Attributes
    ----------
    update_bound : float
        Of the magnitude of each parameter's change at one client in one round.
    most_examples : int
        Of the weight of one client, a whole number; below 2^(``value_bits`` - 1). The nearer it
        is to the largest true weight, the finer the sum.
    update_bounds : mapping of array name to float
        Where an array wants another bound than ``update_bound`` (for instance a counter).
    train_metrics, evaluate_metrics : mapping of metric name to float
        Metrics that are averaged, with the bound of their magnitude. No other metric leaves a
        client. Without metrics there is no federated evaluation.
    value_bits : int
        Signed width of one value, 2 to 48; a value is sent to within bound / 2^(value_bits - 1).

    Raises
    ------
    ConfigurationError
        Naming what is out of its range.
    """

    update_bound: float
    most_examples: int
    update_bounds: Mapping[str, float] = field(default_factory=dict)
    train_metrics: Mapping[str, float] = field(default_factory=dict)
    evaluate_metrics: Mapping[str, float] = field(default_factory=dict)
    value_bits: int = 22

    def __post_init__(self) -> None:
        if not 2 <= self.value_bits <= _MOST_BITS:
            raise ConfigurationError(f"value_bits is {self.value_bits}; wants 2 to {_MOST_BITS}")
        largest = (1 << (self.value_bits - 1)) - 1
        if not 1 <= self.most_examples <= largest:
            raise ConfigurationError(
                f"most_examples is {self.most_examples}; at value_bits = {self.value_bits} it "
                f"wants 1 to {largest}"
            )
        bounds = {"update_bound": self.update_bound}
        for kind in ("update_bounds", "train_metrics", "evaluate_metrics"):
            bounds |= {f"{kind}[{name}]": bound for name, bound in getattr(self, kind).items()}
        for name, bound in bounds.items():
            if not (math.isfinite(bound) and bound > 0):
                raise ConfigurationError(f"{name} is {bound}; wants a number above 0")

    def metrics(self, task: str) -> Mapping[str, float]:
        """Return the metrics of a task with their bounds."""
        return self.train_metrics if task == TRAIN else self.evaluate_metrics


@dataclass(frozen=True)
class Agreement:
    """The terms, and how the app's records are named and shaped.

    Attributes
    ----------
    terms : SecureSumTerms
    arrays_key, config_key : str
        Records that the app's functions receive.
    weight_key : str
        Metric by which the strategy weighs.
    shapes : tuple of (array name, shape)
        In the model's order.
    """

    terms: SecureSumTerms
    arrays_key: str
    config_key: str
    weight_key: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        names = {name for name, _ in self.shapes}
        if len(names) < len(self.shapes):
            raise ConfigurationError("two arrays have one name")
        if strange := set(self.terms.update_bounds) - names:
            raise ConfigurationError(f"update_bounds names no array: {', '.join(sorted(strange))}")
        if any(self.weight_key in self.terms.metrics(task) for task in TASKS):
            raise ConfigurationError(f"{self.weight_key} is the weight; it is no metric besides")

    def to_json(self) -> str:
        """Return canonical JSON, which :meth:`from_json` reads."""
        terms = self.terms
        tree = {
            "format": _FORMAT,
            "update_bound": float(terms.update_bound),
            "most_examples": int(terms.most_examples),
            "update_bounds": _floats(terms.update_bounds),
            "train_metrics": _floats(terms.train_metrics),
            "evaluate_metrics": _floats(terms.evaluate_metrics),
            "value_bits": int(terms.value_bits),
            "keys": [self.arrays_key, self.config_key, self.weight_key],
            "shapes": [[name, list(shape)] for name, shape in self.shapes],
        }
        return json.dumps(tree, sort_keys=True, separators=(",", ":"))

    @staticmethod
    @lru_cache(maxsize=8)
    def from_json(text: str) -> Agreement:
        """Read :meth:`to_json`; ConfigurationError unless the text is what it would write."""
        try:
            tree = json.loads(text)
            if tree.pop("format") != _FORMAT:
                raise ValueError("another format")
            arrays_key, config_key, weight_key = tree.pop("keys")
            shapes = tuple((name, tuple(shape)) for name, shape in tree.pop("shapes"))
            read = Agreement(SecureSumTerms(**tree), arrays_key, config_key, weight_key, shapes)
            if read.to_json() != text:
                raise ValueError("not canonical")
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            raise ConfigurationError(
                "the manifest's terms are not those of a SecureSumStrategy of this version"
            ) from None
        return read

    def layout(self, task: str) -> VectorLayout:
        """Return the layout of a task's vector."""
        terms = self.terms
        fields = [Field(_WEIGHT, 1, float(terms.most_examples), exact=True)]
        if task == TRAIN:
            fields += [
                Field(_UPDATE + name, size, terms.update_bounds.get(name, terms.update_bound))
                for name, shape in self.shapes
                if (size := math.prod(shape)) > 0
            ]
        fields += [
            Field(_METRIC + name, 1, bound) for name, bound in sorted(terms.metrics(task).items())
        ]
        return VectorLayout(tuple(fields), terms.value_bits)

    def task_input(
        self, arrays: ArrayMap, config: ConfigRecord, message_type: str
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Return what a task is computed from as arrays, so that all of it is bound into masks."""
        said = {"message_type": message_type, "config": {k: _plain(v) for k, v in config.items()}}
        text = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
        named = {_ARRAYS + name: np.atleast_1d(array) for name, array in arrays.items()}
        return {**named, _CONFIG: np.frombuffer(text, dtype=np.uint8)}

    def received(self, inputs: ArrayMap, message_type: str) -> tuple[ArrayMap, ConfigRecord]:
        """Check a task's input by the terms alone, and undo :meth:`task_input`.

        Raises
        ------
        SecureSumError
            Naming the array that is absent, not wanted, no numbers, of a wrong shape, or not
            finite; or if the configuration is malformed or for another message type.
        """
        if set(inputs) != {_CONFIG, *(_ARRAYS + name for name, _ in self.shapes)}:
            raise SecureSumError("the input does not hold the arrays that the terms name")
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for name, shape in self.shapes:
            array = inputs[_ARRAYS + name]
            if array.dtype.kind not in "fiub" or array.shape != (shape or (1,)):
                raise SecureSumError(f"array {name} wants numbers of shape {shape}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise SecureSumError(f"array {name} of the received model is not finite")
            arrays[name] = array.reshape(shape)
        try:
            said = json.loads(inputs[_CONFIG].astype(np.uint8, casting="no").tobytes())
            config = ConfigRecord({k: _typed(v) for k, v in said["config"].items()})
            wanted = said["message_type"]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise SecureSumError("the input's configuration is malformed") from None
        if wanted != message_type:
            raise SecureSumError("the input is for another message type")
        return arrays, config

    def content(self, arrays: ArrayMap, config: ConfigRecord) -> RecordDict:
        """Return the records that the app's function would receive without the secure sum."""
        return RecordDict({self.arrays_key: _record(arrays), self.config_key: config})

    def values(self, task: str, received: ArrayMap, reply: RecordDict) -> dict[str, npt.ArrayLike]:
        """Return one client's values for the layout of ``task``, from the app's reply.

        Raises
        ------
        OutOfRangeError
            If the weight is not from 0 to ``most_examples``.
        ValueError, KeyError, TypeError
            If the reply does not hold the records, arrays, shapes or metrics that were agreed on.
        """
        (metrics,) = reply.metric_records.values()
        weight = _number(metrics, self.weight_key)
        most = self.terms.most_examples
        if not 0 <= weight <= most:
            raise OutOfRangeError(f"{self.weight_key} is not from 0 to most_examples = {most}")
        share = weight / most
        values: dict[str, npt.ArrayLike] = {_WEIGHT: weight}
        for name in self.terms.metrics(task):
            values[_METRIC + name] = share * _number(metrics, name)
        if task != TRAIN:
            return values
        (record,) = reply.array_records.values()
        if set(record) != set(received):
            raise ValueError("the app returned other arrays than it received")
        for name, shape in self.shapes:
            new = record[name].numpy()
            if new.shape != shape:
                raise ValueError(f"the app returned array {name} in another shape")
            if new.size:
                with np.errstate(over="ignore", invalid="ignore"):  # then it is out of range
                    update = new.astype(np.float64) - received[name].astype(np.float64)
                    values[_UPDATE + name] = share * update
        return values

    def mean(self, task: str, received: ArrayMap, total: Mapping[str, Reals]) -> RecordDict | None:
        """Return the weighted mean as one client would have replied it; None at no weight."""
        weight = float(total[_WEIGHT][0])
        if weight <= 0:
            return None
        scale = self.terms.most_examples / weight
        metrics = {
            name: scale * float(total[_METRIC + name][0]) for name in self.terms.metrics(task)
        }
        records = RecordDict({"metrics": MetricRecord({self.weight_key: int(weight), **metrics})})
        if task == TRAIN:
            means: dict[str, npt.NDArray[np.generic]] = {}
            for name, shape in self.shapes:
                old = received[name]
                update = total.get(_UPDATE + name, np.zeros(0)).reshape(shape)
                kind = old.dtype if old.dtype.kind == "f" else np.dtype(np.float64)
                means[name] = np.asarray(old.astype(np.float64) + scale * update).astype(kind)
            records[self.arrays_key] = _record(means)
        return records


def _record(arrays: ArrayMap) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})


def _number(metrics: MetricRecord, name: str) -> float:
    if name not in metrics:
        raise ValueError(f"the app's reply has no metric {name}")
    value = metrics[name]
    if isinstance(value, list):
        raise TypeError(f"metric {name} is a list; a secure sum wants one number")
    return float(value)


def _floats(bounds: Mapping[str, float]) -> dict[str, float]:
    return {name: float(bound) for name, bound in bounds.items()}


def _plain(value: object) -> object:
    """Return a value of a ConfigRecord as JSON knows it."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return {"bytes": value.hex()} if isinstance(value, bytes) else value


def _typed(value: Any) -> Any:
    """Undo :func:`_plain`."""
    if isinstance(value, list):
        return [_typed(one) for one in value]
    return bytes.fromhex(value["bytes"]) if isinstance(value, dict) else value
