"""One enterprise as its own configuration describes it: keys, roster, policy, schema, files.

All that needs the enterprise's data or state starts here: its agent, and the commands of its own
people. Opening a site reads files; it changes none.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from fgcif_flwr.config.enterprise import EnterpriseConfig
from fgcif_flwr.data.consortium import EnterpriseRows
from fgcif_flwr.data.encoding import encode
from fgcif_flwr.data.membership import (
    TEST,
    TRAIN,
    VALIDATION,
    customer_ids,
    membership,
)
from fgcif_flwr.data.schema import Schema, load_schema
from fgcif_flwr.enterprise.agent.users import user_id
from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.federation.roster import Roster, load_identity, load_roster
from fgcif_flwr.privacy.ledger import SqliteLedger
from fgcif_flwr.privacy.policy import Policy, load_policy
from fgcif_flwr.secagg.keys import KEY_BYTES, KeyPair, identifies

if TYPE_CHECKING:
    from fgcif_flwr.data.crm.report import DataReport

_NOT_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_FOR_OTHERS_TO_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Site:
    """An enterprise's configuration with what it names, read and checked.

    Attributes
    ----------
    config : EnterpriseConfig
    schema : Schema
        The consortium's.
    policy : Policy
    identity : KeyPair
        Ed25519; the private half stays in this process.
    roster : tuple of (name, public key)
        As agreed out of band, in the order of names; this enterprise is in it. Empty before there
        is one.
    coordinator : bytes
        The coordinator's pinned Ed25519 public key; empty before there is one.
    """

    config: EnterpriseConfig
    schema: Schema
    policy: Policy
    identity: KeyPair
    roster: Roster
    coordinator: bytes

    @classmethod
    def open(cls, config: EnterpriseConfig, *, takes_part: bool = True) -> Site:
        """Read what a configuration names.

        Parameters
        ----------
        takes_part
            Whether roster and coordinator's key must be there. What an enterprise does with its own
            data wants neither; files that are there must be right in any case.

        Raises
        ------
        ConfigurationError
            If a file is absent or wrong, if group or others have any right to the state directory
            or the identity key, if others than root and the agent's user could change what decides
            what leaves (configuration, policy, roster, coordinator's key), or if the roster holds
            another key under this enterprise's name.
        SchemaError
            If the consortium's schema is wrong.
        """
        consortium, directory = config.consortium, config.directory
        check_unalterable(config)
        _check_private(directory, "state directory", "0700")
        identity_path = directory / "identity.pem"
        _check_private(identity_path, "identity key", "0600")
        identity = load_identity(identity_path)
        wants_roster = takes_part or consortium.roster.exists()
        roster = load_roster(consortium.roster) if wants_roster else ()
        if wants_roster and dict(roster).get(config.enterprise.name) != identity.public:
            raise ConfigurationError(
                f"the roster {consortium.roster} does not hold the key of {identity_path} under "
                f"the name {config.enterprise.name}; hand the public key to the consortium, and "
                "take the roster that it agreed on"
            )
        coordinator = b""
        if takes_part or consortium.coordinator.exists():
            coordinator = load_public_key(consortium.coordinator, "the coordinator")
        return cls(
            config,
            load_schema(consortium.schema_file),
            load_policy(config.enterprise.policy),
            identity,
            roster,
            coordinator,
        )

    @property
    def name(self) -> str:
        """The enterprise's, as in the roster."""
        return self.config.enterprise.name

    @property
    def ledger_path(self) -> Path:
        """The privacy ledger of this enterprise's customers."""
        return self.config.directory / "ledger.db"

    @property
    def witness_path(self) -> Path:
        """What others showed of their ledgers."""
        return self.config.directory / "witness.db"

    @property
    def journal_path(self) -> Path:
        """Spent slots and kept replies."""
        return self.config.directory / "journal.db"

    @property
    def release_log_path(self) -> Path:
        """One line for everything that left."""
        return self.config.directory / "releases.jsonl"

    @property
    def state_path(self) -> Path:
        """What the agent must remember: request numbers, runs, approvals."""
        return self.config.directory / "agent.db"

    @property
    def log_path(self) -> Path:
        """The agent's own log."""
        return self.config.directory / "agent.log"

    @property
    def models_directory(self) -> Path:
        """Models of runs in which this enterprise took part, RUN.safetensors."""
        return self.config.directory / "models"

    def open_ledger(self) -> SqliteLedger:
        """Open the ledger of this enterprise's customers, making it if there is none.

        Raises
        ------
        LedgerError
            As :class:`SqliteLedger`.
        """
        return SqliteLedger(self.ledger_path, self.name)

    def customers(
        self, cutoff: date | None = None, targets: bool = True
    ) -> tuple[pa.Table, DataReport]:
        """Return one row for each customer, with the schema's columns, and what was found.

        Raises
        ------
        DataError
            As :func:`fgcif_flwr.data.crm.customers.customer_table`.
        """
        from fgcif_flwr.data.crm.customers import customer_table

        return customer_table(
            self.config.data,
            self.schema,
            cutoff=cutoff,
            targets=targets,
            scratch=self.config.directory,
        )

    def rows(
        self, table: pa.Table, ledger_key: bytes, fractions: tuple[float, float]
    ) -> EnterpriseRows:
        """Encode customers and split them.

        Parameters
        ----------
        table
            From :meth:`customers`.
        ledger_key
            ``population_key`` of this enterprise's ledger (32 bytes): a customer stays in its
            split, whatever the table is called or whenever it is extracted.
        fractions
            Of validation and of test customers.
        """
        encoded = encode(self.schema, table)
        split = membership(customer_ids(table, self.schema), ledger_key, *fractions)
        train, validation, test = (
            encoded.take(np.flatnonzero(split == part)) for part in (TRAIN, VALIDATION, TEST)
        )
        return EnterpriseRows(train, validation, test, self.name, *fractions)


def check_unalterable(config: EnterpriseConfig) -> None:
    """Raise unless only root and the agent's user can change what decides what leaves.

    These are configuration, policy, roster and coordinator's key; those that are absent are left
    to whoever reads them.

    Raises
    ------
    ConfigurationError
        Naming the first file, or directory of one, that somebody else can change.
    """
    user = user_id(config.agent.user, "agent.user")
    for path, what in (
        (config.file, "configuration"),
        (config.enterprise.policy, "policy"),
        (config.consortium.roster, "roster"),
        (config.consortium.coordinator, "coordinator's key"),
    ):
        if path is None:
            continue
        try:
            real = path.resolve()
            places = {one: one.stat() for one in (path.parent, real.parent, real)}
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigurationError(
                f"the {what} {path} cannot be read: {error.strerror}"
            ) from None
        for place, found in places.items():
            kept = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
            if found.st_uid not in (0, user) or (found.st_mode & _FOR_OTHERS_TO_WRITE and not kept):
                raise ConfigurationError(
                    f"the {what} {path} can be changed by others than root and the agent's user: "
                    f"{place} is of user {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}; "
                    f"chown it to root or user {user} and chmod go-w it"
                )


def load_public_key(path: Path, whose: str) -> bytes:
    """Return the Ed25519 public key of a file: 64 hexadecimal digits.

    Raises
    ------
    ConfigurationError
        If the file cannot be read or holds no such key.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
        public = bytes.fromhex(text)
    except OSError as error:
        raise ConfigurationError(
            f"the public key of {whose}, {path}, cannot be read: {error.strerror}"
        ) from None
    except ValueError:
        public = b""
    if not identifies(public):
        raise ConfigurationError(
            f"{path} holds no public key of {whose}: it wants {2 * KEY_BYTES} hexadecimal digits "
            "of an Ed25519 key"
        )
    return public


def _check_private(path: Path, what: str, wanted: str) -> None:
    """Raise unless only its owner, who is the one that asks or root, has rights to a path."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise ConfigurationError(
            f"the {what} {path} cannot be read: {error.strerror}; fgcif-client init makes it"
        ) from None
    if found.st_mode & _NOT_FOR_OTHERS:
        raise ConfigurationError(
            f"the {what} {path} can be used by others than its owner (mode "
            f"{stat.S_IMODE(found.st_mode):04o}); chmod it to {wanted}"
        )
    if os.geteuid() not in (0, found.st_uid):
        raise ConfigurationError(f"the {what} {path} belongs to another user")
