"""A process that is started again when it ends, and of which nothing is left when it is stopped."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fgcif_flwr.enterprise.agent.hardening import die_with_parent
from fgcif_flwr.enterprise.agent.users import group_id

logger = logging.getLogger(__name__)

SETTLED = 120.0
"""Seconds after which a process that ends is restarted as soon as one that never ended before."""
SECONDS_TO_STOP = 60.0
_FIRST_PAUSE = 1.0


@dataclass
class Supervised:
    """A process that is started again, later each time, when it ends.

    Attributes
    ----------
    name : str
        For messages.
    arguments : sequence of str
    user : int
        Whom it runs as.
    environment : mapping of str to str
        All of it.
    longest_pause : float
        Seconds.
    """

    name: str
    arguments: Sequence[str]
    user: int
    environment: Mapping[str, str]
    longest_pause: float
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    started: float = 0.0
    due: float = 0.0
    jitter: Callable[[], float] = field(default=random.random, repr=False)

    def tend(self, now: float) -> None:
        """Start the process where it is due; notice where it ended.

        The pause doubles from 1 s, and half of it is drawn: nodes that lost one server do not all
        come back at once. A SuperNode that crashed is refused by the SuperLink for about a minute.
        """
        if self.process is None:
            if now >= self.due:
                self._start(now)
            return
        code = self.process.poll()
        if code is None:
            return
        self.process = None
        self.failures = 1 if now - self.started > SETTLED else self.failures + 1
        pause = min(self.longest_pause, _FIRST_PAUSE * 2 ** min(self.failures - 1, 20))
        pause *= (1 + self.jitter()) / 2
        self.due = now + pause
        logger.warning(
            "the %s ended with code %d; it is started again in %.0f s", self.name, code, pause
        )

    def stop(self, seconds: float = SECONDS_TO_STOP) -> None:
        """End the process and all that it started; SIGKILL for what does not end in time."""
        process, self.process = self.process, None
        if process is None:
            return
        for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, None)):
            try:
                os.killpg(process.pid, number)  # of its own group, which its children are in
            except ProcessLookupError:
                break
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
            if not _group_lives(process.pid, seconds):
                break
        process.wait()

    def _start(self, now: float) -> None:
        own = self.user == os.geteuid()
        group = group_id(self.user)
        self.process = subprocess.Popen(
            self.arguments,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            user=None if own else self.user,
            group=None if own else group,
            extra_groups=None if own else [],
            preexec_fn=die_with_parent,
            umask=0o077,
        )
        self.started = now
        logger.info("the %s runs as process %d, user %d", self.name, self.process.pid, self.user)


def _group_lives(group: int, seconds: float) -> bool:
    """Wait until a process group is empty; whether it still is not after some time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True
