"""Any averaging strategy over secure sums: the server sees the weighted mean, no client's part.

    strategy = SecureSumStrategy(FedAdam(), SecureSumTerms(update_bound=1, most_examples=500), …)

The wrapped strategy decides what is sent, and does with the mean what it would do with the replies:
it gets one reply, as from one client that holds everybody's examples.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    FedMedian,
    FedTrimmedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)

from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.federation.envelope import EnvelopeGrid, enclose
from fgcif_flwr.federation.records import arrays_from_record
from fgcif_flwr.federation.roster import FilePath, load_roster
from fgcif_flwr.federation.secure_sum_terms import EVALUATE, TRAIN, Agreement, SecureSumTerms
from fgcif_flwr.federation.session import SecureSumSession, SessionSettings, Sum, Task
from fgcif_flwr.federation.task_input import ArrayMap

logger = logging.getLogger(__name__)

# They compare or combine single replies, which nobody sees here.
_NEED_SINGLE_REPLIES = (
    Bulyan,
    FedMedian,
    FedTrimmedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    Krum,
    MultiKrum,
    QFedAvg,
)


class SecureSumStrategy(Strategy):
    """Wraps a strategy that averages arrays and metrics by a weight key; every client takes part.

    Parameters
    ----------
    strategy : Strategy
        FedAvg, FedAdam, FedYogi, FedProx, FedAvgM, or of one's own. Its fractions are 1, or 0 for
        no training or evaluation at all: a secure sum is over all who are there.
    terms : SecureSumTerms
        Bounds of what one client adds. Federated evaluation takes place where they name metrics
        for it.
    clients : int, optional
        How many must be connected before the run starts; the length of the roster by default.
    roster : path, optional
        JSON object of all clients' names and public keys, the same as theirs. Without one the
        roster is whoever is connected at the start, on the word of each: for simulations.
    timeout : float
        Seconds that replies, and at the start clients, are waited for.
    retries : int
        New slots that are tried after a failed one; each trains anew.
    threshold, tolerated_dropouts, tolerated_colluders, consistency, neighbours : optional
        Of the secure sum; by default chosen from the size of the roster.

    Attributes
    ----------
    last : Sum or None
        The sum opened last: who survived, who was dropped, how many could not compute.

    Raises
    ------
    ConfigurationError
        If the strategy needs single replies, samples clients, or knows no weight key; if the
        roster is wrong, or neither it nor ``clients`` is given.
    """

    def __init__(
        self,
        strategy: Strategy,
        terms: SecureSumTerms,
        *,
        clients: int | None = None,
        roster: FilePath | None = None,
        timeout: float = 600.0,
        retries: int = 2,
        threshold: int | None = None,
        tolerated_dropouts: int | None = None,
        tolerated_colluders: int | None = None,
        consistency: bool | None = None,
        neighbours: int | None = None,
    ) -> None:
        _check(strategy)
        pinned = None if roster is None else load_roster(roster)
        wanted = clients if clients is not None else len(pinned or ())
        if wanted < 3:
            raise ConfigurationError(
                "SecureSumStrategy wants roster=, or clients= of at least 3 for simulations"
            )
        self.strategy = strategy
        self.terms = terms
        self.last: Sum | None = None
        self._settings = SessionSettings(
            enterprises=wanted,
            timeout=timeout,
            retries=retries,
            threshold=threshold,
            tolerated_dropouts=tolerated_dropouts,
            tolerated_colluders=tolerated_colluders,
            consistency=consistency,
            neighbours=neighbours,
            roster=pinned,
            range_advice=(
                "raise update_bound, most_examples or the metric's bound in SecureSumTerms, or "
                "train with smaller steps"
            ),
            waiting_advice="put SecureSumMod first in their mods, raise timeout, or lower clients",
        )
        self._agreement: Agreement | None = None
        self._session: SecureSumSession | None = None
        self._grid: EnvelopeGrid | None = None
        self._over: Grid | None = None
        self._task: Task | None = None
        self._received: ArrayMap = {}
        self._asked: Message | None = None

    def summary(self) -> None:
        """Log the wrapped strategy's summary, and that its replies are secure sums."""
        self.strategy.summary()
        logger.info("secure sum over %d clients; %s", self._settings.enterprises, self.terms)
        if not self.terms.evaluate_metrics:
            logger.info("no federated evaluation: the terms name no evaluate_metrics")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the strategy say what it would send; open a slot for it and return its releases."""
        messages = self.strategy.configure_train(server_round, arrays, config, grid)
        return self._open(TRAIN, messages, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Open the sum and hand the mean to the strategy as one reply.

        Raises
        ------
        SecureSumError
            If the slot and its retries fail; nothing of them is applied.
        """
        return self.strategy.aggregate_train(server_round, self._mean(TRAIN, replies))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As :meth:`configure_train`, where the terms name metrics of evaluation."""
        if not self.terms.evaluate_metrics:
            self._task = None
            return []
        messages = self.strategy.configure_evaluate(server_round, arrays, config, grid)
        return self._open(EVALUATE, messages, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """As :meth:`aggregate_train`, for metrics alone."""
        return self.strategy.aggregate_evaluate(server_round, self._mean(EVALUATE, replies))

    def _open(self, name: str, messages: Iterable[Message], grid: Grid) -> list[Message]:
        self._task = None
        self._asked = asked = next(iter(messages), None)
        if asked is None:
            return []
        content, carrier = asked.content, asked.metadata.message_type
        arrays_key, config_key, weight_key = _keys(self.strategy)
        if set(content) != {arrays_key, config_key}:
            raise ConfigurationError(
                f"the strategy sends records other than {arrays_key} and {config_key}"
            )
        self._received = arrays_from_record(content.array_records[arrays_key])
        shapes = tuple((key, array.shape) for key, array in self._received.items())
        agreed = Agreement(self.terms, arrays_key, config_key, weight_key, shapes)
        session, envelopes = self._joined(agreed, grid, carrier)
        envelopes.carrier = carrier
        config = content.config_records[config_key]
        inputs = agreed.task_input(self._received, config, carrier)
        self._task = Task(name, agreed.layout(name), inputs)
        return [enclose(message, carrier) for message in session.open(self._task)]

    def _joined(
        self, agreed: Agreement, grid: Grid, carrier: str
    ) -> tuple[SecureSumSession, EnvelopeGrid]:
        """Join at the first use of a grid; what was agreed on then stands."""
        if self._session is None or self._grid is None or self._over is not grid:
            self._over, self._grid = grid, EnvelopeGrid(grid, carrier)
            self._session = SecureSumSession(self._grid, self._settings, agreed.to_json())
            self._agreement = agreed
            self._session.join()
        elif self._agreement != agreed:
            raise ConfigurationError("the model's arrays changed their names or shapes in the run")
        return self._session, self._grid

    def _mean(self, name: str, replies: Iterable[Message]) -> list[Message]:
        if self._task is None:
            return []
        assert self._agreement is not None
        assert self._asked is not None
        assert self._session is not None
        total = self.last = self._session.collect_or_retry(self._task, replies)
        records = self._agreement.mean(name, self._received, total.values)
        if records is None:
            logger.warning("slot %d: the survivors have no examples to %s on", total.slot, name)
            return []
        return [Message(records, reply_to=self._asked)]


def _check(strategy: Strategy) -> None:
    """Refuse a strategy that a sum is not enough for."""
    name = type(strategy).__name__
    if isinstance(strategy, _NEED_SINGLE_REPLIES):
        raise ConfigurationError(f"{name} needs every client's own reply, which nobody sees here")
    _keys(strategy)
    for key in ("fraction_train", "fraction_evaluate"):
        if (fraction := getattr(strategy, key, 1.0)) not in (0.0, 1.0):
            raise ConfigurationError(
                f"{name}: {key} is {fraction}; a secure sum is over all clients: set it to 1 (or "
                "to 0 for none)"
            )


def _keys(strategy: Strategy) -> tuple[str, str, str]:
    """Return the keys of arrays, configuration and weight."""
    keys = ("arrayrecord_key", "configrecord_key", "weighted_by_key")
    found = [getattr(strategy, key, None) for key in keys]
    if not all(isinstance(one, str) for one in found):
        raise ConfigurationError(
            f"{type(strategy).__name__} says no {', '.join(keys)}: it averages by no weight"
        )
    return str(found[0]), str(found[1]), str(found[2])
