"""Users of a machine: the agent's and the SuperNode's, which must not be one."""

from __future__ import annotations

import os
import pwd
import socket
import struct
from dataclasses import dataclass

from fgcif_flwr.config.enterprise import AgentSection
from fgcif_flwr.errors import ConfigurationError

_PEER = struct.Struct("3i")  # pid, uid, gid: struct ucred of Linux


@dataclass(frozen=True)
class Users:
    """User ids."""

    agent: int
    supernode: int

    @classmethod
    def of(cls, section: AgentSection) -> Users:
        """Return the users that a configuration names.

        Raises
        ------
        ConfigurationError
            If it names one that this machine does not have.
        """
        return cls(
            user_id(section.user, "agent.user"),
            user_id(section.supernode_user, "agent.supernode_user"),
        )


def user_id(name: str, key: str) -> int:
    """Return the id of a user: a name, or digits; empty is whoever runs this process."""
    if not name:
        return os.geteuid()
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigurationError(f"{key}: this machine has no user {name}; make one") from None


def group_id(user: int) -> int:
    """Return a user's own group; that of the same number where nobody wrote one down."""
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:
        return user


def peer_of(connection: socket.socket) -> int:
    """Return the user at the other end of a Unix socket, as the kernel knows it.

    Of whoever connects it is the user at that moment; of a listening end, the one that listens.
    """
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(found)[1])
