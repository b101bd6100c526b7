"""The local grid spread over the machine's cores: each worker process has some of the nodes.

Which process a node lives in changes nothing of what it computes.
"""

from __future__ import annotations

import importlib
import multiprocessing
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from flwr.app import Message

from fgcif_flwr.errors import RunFailedError
from fgcif_flwr.federation.inline_grid import LocalGrid, Nodes, RunConfigMap
from fgcif_flwr.logs import logging_to


class ProcessGrid(LocalGrid):
    """A grid whose nodes live in worker processes; a context manager, which ends them.

    Parameters
    ----------
    app : str
        Where the ClientApp is: ``package.module:name`` (it does not travel itself).
    nodes : int
    run_config : mapping
        Dotted keys, as ``flwr run`` hands them to the apps.
    processes : int
        Workers; node i lives in worker i modulo ``processes``.
    log : Path
        File to which the workers append their log.
    """

    def __init__(
        self, app: str, nodes: int, run_config: RunConfigMap, *, processes: int, log: Path
    ) -> None:
        super().__init__(nodes)
        # Fresh processes: forked ones would inherit the thread pools of torch and Arrow.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._workers = []
        for worker in range(processes):
            here, there = context.Pipe()
            mine = range(worker, nodes, processes)
            process = context.Process(
                target=_serve, args=(there, app, mine, nodes, dict(run_config), log), daemon=True
            )
            process.start()
            there.close()
            self._pipes.append(here)
            self._workers.append(process)

    def __enter__(self) -> ProcessGrid:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._workers:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()

    def deliver(self, messages: list[Message]) -> list[Message]:
        """Let all workers answer their nodes' messages at the same time.

        Raises
        ------
        RunFailedError
            If a worker process died.
        """
        ids = {node: place for place, node in enumerate(self.get_node_ids())}
        shares: list[list[int]] = [[] for _ in self._pipes]
        for place, message in enumerate(messages):
            shares[ids[message.metadata.dst_node_id] % len(shares)].append(place)
        replies: dict[int, Message] = {}
        try:
            for pipe, share in zip(self._pipes, shares, strict=True):
                pipe.send([messages[place] for place in share])
            for pipe, share in zip(self._pipes, shares, strict=True):
                replies |= zip(share, pipe.recv(), strict=True)
        except (EOFError, OSError):
            raise RunFailedError(
                "a worker process of the simulation died (out of memory?); see the run's log, or "
                "simulate fewer enterprises"
            ) from None
        return [replies[place] for place in range(len(messages))]


def _serve(
    pipe: Connection, app: str, mine: range, nodes: int, run_config: RunConfigMap, log: Path
) -> None:
    """Answer batches of messages until the other side closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    with logging_to(log):
        module, _, name = app.partition(":")
        served = Nodes(getattr(importlib.import_module(module), name), mine, nodes, run_config)
        while True:
            try:
                batch: list[Message] = pipe.recv()
            except EOFError:
                return
            pipe.send([served.deliver(message) for message in batch])
