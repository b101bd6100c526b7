"""A process that is started again when it ends, and of which nothing is left when it is stopped."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fgcif_flwr.enterprise.agent.hardening import die_with_parent
from fgcif_flwr.enterprise.agent.users import group_id

logger = logging.getLogger(__name__)

SETTLED = 120.0
"""Seconds after which a process that ends is restarted as soon as one that never ended before."""
SECONDS_TO_STOP = 60.0
_FIRST_PAUSE = 1.0
_LONGEST_LINE = 4096  # bytes
_AT_ONCE = 1 << 20  # bytes that are copied before anything else is looked at


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return a text in which nothing can steer a terminal, or be taken for another line."""
    return "".join(
        one
        if one == " " or unicodedata.category(one)[0] not in "CZ"
        else "\N{REPLACEMENT CHARACTER}"
        for one in text.replace("\t", " ")
    )


@dataclass
class Supervised:
    """A process that is started again, later each time, when it ends.

    It has no terminal: not whoever starts it reads its lines, but this, which passes them on
    without their control characters. It starts in ``/``, where only root puts files.

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
    say : callable
        Is given each line that it writes, with its name.
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
    say: Callable[[str], None] = field(default=_on_stderr, repr=False)
    _begun: bytes = field(default=b"", repr=False)  # a line that has no end yet

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
        self.pass_on()
        if code is None:
            return
        self._close()
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
        process = self.process
        if process is None:
            return
        for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, None)):
            try:
                os.killpg(process.pid, number)  # of its own group, which its children are in
            except ProcessLookupError:
                break
            if self._goes_on(patience) or self._goes_on(seconds, _group_lives):
                continue
            break
        process.wait()
        self._close()
        self.process = None

    def pass_on(self) -> None:
        """Pass on the lines that the process has written so far."""
        stream = None if self.process is None else self.process.stdout
        if stream is None or stream.closed:
            return
        for _ in range(_AT_ONCE // _LONGEST_LINE):
            read = stream.read(_LONGEST_LINE)
            if not read:  # None: nothing more as yet; b"": nothing ever
                return
            *lines, self._begun = (self._begun + read).split(b"\n")
            for line in lines:
                self._say(line)
            if len(self._begun) >= _LONGEST_LINE:
                self._say(self._begun)
                self._begun = b""

    def _say(self, line: bytes) -> None:
        self.say(f"{self.name}: {printable(line.decode('utf-8', 'replace').rstrip())}")

    def _close(self) -> None:
        """Pass on what is left and close: what lives on in a session of its own is not heard."""
        self.pass_on()
        if self._begun:
            self._say(self._begun)
            self._begun = b""
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()

    def _goes_on(
        self,
        seconds: float | None,
        lives: Callable[[subprocess.Popen[bytes]], bool] = lambda process: process.poll() is None,
    ) -> bool:
        """Wait for an end, reading on meanwhile: who writes into a full pipe never ends."""
        assert self.process is not None
        until = None if seconds is None else time.monotonic() + seconds
        while lives(self.process):
            if until is not None and time.monotonic() > until:
                return True
            self.pass_on()
            time.sleep(0.02)
        return False

    def _start(self, now: float) -> None:
        own = self.user == os.geteuid()
        group = group_id(self.user)
        self.process = subprocess.Popen(
            self.arguments,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            cwd="/",
            start_new_session=True,
            user=None if own else self.user,
            group=None if own else group,
            extra_groups=None if own else [],
            preexec_fn=die_with_parent,
            umask=0o077,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.started = now
        logger.info("the %s runs as process %d, user %d", self.name, self.process.pid, self.user)


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
