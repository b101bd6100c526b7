"""The agent's Unix sockets: where they lie, who may reach them, and that they are its own."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from fgcif_flwr.errors import ConfigurationError, PolicyError

SHARED_MODES = (0o711, 0o666)
"""Of the shared socket's directory and file. Others find the socket and cannot replace it; the
kernel tells who connects, and that decides (:mod:`fgcif_flwr.enterprise.agent.protocol`)."""
ADMIN_MODES = (0o700, 0o600)
_WRITABLE = stat.S_IWGRP | stat.S_IWOTH
_BACKLOG = 64
_LONGEST = 107  # bytes of a path in sockaddr_un


def listen(path: Path, modes: tuple[int, int]) -> socket.socket:
    """Return a listening socket at ``path``; one that a dead agent left there is replaced.

    Parameters
    ----------
    modes
        Of the directory, where it is made here, and of the socket's file.

    Raises
    ------
    ConfigurationError
        If the path is too long, if something else stands there, if somebody listens there, or the
        directory can be written by others: whoever can, could put a socket of their own in its
        place.
    """
    if len(os.fsencode(path)) > _LONGEST:
        raise ConfigurationError(
            f"the socket {path} has a path of more than {_LONGEST} bytes; choose a shorter one"
        )
    _directory(path.parent, modes[0])
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o777)  # nobody connects before its rights are set
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        os.chmod(path, modes[1])
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ConfigurationError(f"the socket {path} cannot be made: {error.strerror}") from None
    return listening


def _directory(path: Path, mode: int) -> None:
    """Make a directory where there is none; raise unless nobody else can change what is in it."""
    try:
        if not path.parent.exists():
            _directory(path.parent, SHARED_MODES[0])
        if not path.is_symlink() and not path.exists():
            path.mkdir(mode=0o700)
            path.chmod(mode)
    except OSError as error:
        raise ConfigurationError(
            f"the directory {path} cannot be made: {error.strerror}; make it, or one above it, and "
            "chown it to agent.user"
        ) from None
    check_place(path, mode, os.geteuid())


def check_place(path: Path, mode: int, user: int) -> None:
    """Raise unless nobody but root and a user can change what is in a directory.

    Parameters
    ----------
    path
        The directory; where it is not there yet, those above it are looked at.
    mode
        It should have.
    user
        Whose sockets will lie in it.

    Raises
    ------
    ConfigurationError
        If it cannot be looked at, or is no directory.
    PolicyError
        If others can change what is in it, or replace it.
    """
    try:
        own = [path.lstat()] if os.path.lexists(path) else []
        above = [one.stat() for one in path.resolve().parents if one.exists()]
    except OSError as error:
        raise ConfigurationError(
            f"the directory {path} cannot be looked at: {error.strerror}"
        ) from None
    if not all(stat.S_ISDIR(one.st_mode) for one in own):
        raise ConfigurationError(f"{path} is no directory (a link is none)")
    if any(one.st_uid not in (0, user) for one in (*own, *above)):
        raise PolicyError(
            f"the directory {path}, or one above it, belongs to another user; chown it to "
            "agent.user or root"
        )
    if any(one.st_mode & _WRITABLE for one in own) or any(
        one.st_mode & _WRITABLE and not one.st_mode & stat.S_ISVTX for one in above
    ):
        raise PolicyError(
            f"the directory {path}, or one above it, can be written by others, who could replace "
            f"the socket; chmod it to {mode:04o}, those above to 0755"
        )


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigurationError(f"{path} is there and no socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(1.0)
        try:
            asking.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ConfigurationError(f"the socket {path} is in use: {error.strerror}") from None
    raise ConfigurationError(f"somebody listens on {path} already")
