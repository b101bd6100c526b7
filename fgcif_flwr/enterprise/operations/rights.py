"""Whether the agent's user, whoever looks, can use what it must, and nobody else can change it."""

from __future__ import annotations

import glob
import os
import pwd
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fgcif_flwr.config.enterprise import EnterpriseConfig
from fgcif_flwr.enterprise.agent.sockets import ADMIN_MODES, SHARED_MODES, check_place
from fgcif_flwr.enterprise.agent.users import Users, group_id, user_id
from fgcif_flwr.enterprise.site import check_unalterable
from fgcif_flwr.errors import FgcifError

State = Literal["ok", "warning", "fault", "not checked"]

_MOST = 1000  # files that are looked at
_SQLITE = "sqlite:///"
_LOOK = 'i=0; for f; do [ {0} "$f" ] || echo $i; i=$((i+1)); done'


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
    state : State
        A fault keeps the enterprise from taking part.
    found : str
        In words; never a customer's value.
    advice : str
        What to do, where something is to be done.
    """

    name: str
    state: State
    found: str
    advice: str = ""


def user_name(number: int) -> str:
    """Return the name of a user, or the number where there is none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def examine_rights(config: EnterpriseConfig) -> Iterator[Check]:
    """Look at users, and at what the agent's user owns, reads and writes."""
    yield _users(config)
    try:
        user = user_id(config.agent.user, "agent.user")
    except FgcifError:  # said above
        return
    yield _owned(config, user, config.directory, "state directory", 0o700)
    yield _owned(config, user, config.directory / "identity.pem", "identity key", 0o600)
    try:
        check_unalterable(config)
    except FgcifError as error:
        yield Check("own files", "fault", str(error))
    else:
        yield Check("own files", "ok", "only root and the agent's user can change them")
    if os.geteuid() not in (0, user):
        who = f"only root and {user_name(user)} can tell"
        yield Check("readable files", "not checked", who)
        yield Check("sockets", "not checked", who)
        return
    yield _readable(config, user)
    yield _sockets(config, user)


def _users(config: EnterpriseConfig) -> Check:
    try:
        users = Users.of(config.agent)
    except FgcifError as error:
        return Check("users", "fault", str(error), "useradd --system NAME")
    if not config.agent.supernode_user:
        return Check(
            "users",
            "warning",
            "agent.supernode_user is not set: nobody but the agent's user reaches the agent",
            "make a user for the SuperNode and name it; join refuses one user for both",
        )
    if users.agent == users.supernode:
        return Check(
            "users",
            "fault",
            f"agent and SuperNode would both be {user_name(users.agent)}: the coordinator's code "
            "could read the data",
            "name another agent.supernode_user",
        )
    if users.supernode == 0:
        return Check(
            "users",
            "fault",
            "the SuperNode would be root, who may read whatever the agent holds",
            "name another agent.supernode_user",
        )
    found = f"agent {user_name(users.agent)}, SuperNode {user_name(users.supernode)}"
    return Check("users", "ok", found)


def _owned(config: EnterpriseConfig, user: int, path: Path, name: str, mode: int) -> Check:
    try:
        found = path.stat()
        inside = list(path.iterdir()) if stat.S_ISDIR(found.st_mode) else []
        strangers = {one.lstat().st_uid for one in inside} - {user}
    except PermissionError as error:
        advice = f"run this as {user_name(user)} or root"
        return Check(name, "fault", f"{path}: {error.strerror}", advice)
    except OSError as error:
        return Check(name, "fault", f"{path}: {error.strerror}", "fgcif-client init makes it")
    actual = stat.S_IMODE(found.st_mode)
    if actual & ~mode:
        return Check(
            name,
            "fault",
            f"{path} can be used by others than its owner (mode {actual:04o})",
            f"chmod {mode:04o} {path}",
        )
    if found.st_uid == user and not strangers:
        return Check(name, "ok", f"mode {actual:04o}, of {user_name(user)}")
    owner = user_name(found.st_uid if found.st_uid != user else min(strangers))
    what = f"{path}" if found.st_uid != user else f"something in {path}"
    advice = f"chown -R {_wanted(user)}: {config.directory}"
    if not config.agent.user:
        advice += f", or set agent.user to {owner}"
    return Check(name, "fault", f"{what} belongs to {owner}, not to {user_name(user)}", advice)


def _wanted(user: int) -> str:
    """Return a user as chown takes it."""
    return user_name(user).removeprefix("user ")


def _readable(config: EnterpriseConfig, user: int) -> Check:
    consortium = config.consortium
    own = [config.file, config.enterprise.policy, consortium.roster, consortium.coordinator]
    files = [str(path) for path in own if path is not None]
    schema = consortium.schema_file
    files += [schema] if "/" in schema else []
    for source in (config.data.table, *config.data.components.values()):
        if source is None:
            continue
        if not source.is_database:
            files += sorted(glob.glob(source.source)) or [source.source]
        elif source.source.startswith(_SQLITE):
            files.append(source.source.removeprefix(_SQLITE))
        files += [source.password_file] if source.password_file else []
    there = [one for one in files if os.path.exists(one)]  # what is absent is said elsewhere
    failing = _failing(there[:_MOST], user, "-r")
    if not failing:
        return Check("readable files", "ok", f"{user_name(user)} can read {len(there)}")
    more = f" and {len(failing) - 1} more" if len(failing) > 1 else ""
    return Check(
        "readable files",
        "fault",
        f"{user_name(user)} cannot read {failing[0]}{more}",
        f"chown or chmod it, and let {user_name(user)} pass through the directories above it "
        "(chmod o+x); groups beside its first one join does not give it",
    )


def _sockets(config: EnterpriseConfig, user: int) -> Check:
    for path, modes in ((config.agent.shared, SHARED_MODES), (config.agent.admin, ADMIN_MODES)):
        directory = path.parent
        try:
            check_place(directory, modes[0], user)
        except FgcifError as error:
            return Check("sockets", "fault", str(error))
        last = directory
        while not last.parent.exists():
            last = last.parent
        existing = directory if directory.exists() else last.parent
        if not _failing([str(existing)], user, "-w") and not _failing([str(existing)], user, "-x"):
            continue
        if directory.exists():
            found, advice = f"write in {directory}", f"chown {_wanted(user)}: {directory}"
        else:
            found = f"make {directory}"
            advice = f"install -d -o {_wanted(user)} -m {SHARED_MODES[0]:04o} {last}"
        return Check("sockets", "fault", f"{user_name(user)} cannot {found}", advice)
    return Check("sockets", "ok", f"{user_name(user)} can make them")


def _failing(paths: Sequence[str], user: int, test: str) -> list[str]:
    """Return the paths that a user, with the rights that join gives it, cannot use."""
    if user == os.geteuid():
        asked = {"-r": os.R_OK, "-w": os.W_OK, "-x": os.X_OK}[test]
        return [path for path in paths if not os.access(path, asked)]
    done = subprocess.run(
        ["/bin/sh", "-c", _LOOK.format(test), "sh", *paths],
        user=user,
        group=group_id(user),
        extra_groups=[],
        cwd="/",
        env={},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return [paths[int(number)] for number in done.stdout.split()]
