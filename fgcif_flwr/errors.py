"""The exceptions of this project, each with the exit code that a command ends with.

FgcifError
├── ConfigurationError          10  a value in the run's configuration is wrong
│   ├── UnknownKeyError         11  a key that no configuration has
│   └── NotAvailableError       12  named in the configuration, not in this version
├── SchemaError                 20  the consortium schema is wrong, or wrong for this table
├── DataError                   21  a table or another file cannot be read or written
│   ├── MissingColumnError      22  a column of the schema is not in the table
│   ├── ValueOutOfKindError     23  a value cannot be of its feature's kind
│   └── ClassAbsentError        24  a class of a target is absent at every enterprise
├── PartitionError              25  rows cannot be divided among enterprises as asked
├── SecureSumError              31  the secure sum was refused or failed as a whole
│   ├── CohortError             30  who takes part allows no secure sum
│   ├── OutOfRangeError         32  a value does not fit the words of the release
│   ├── SlotSpentError          33  a slot was asked for twice
│   ├── AuthenticationError     34  a message is not from whom it says
│   ├── NotJoinedError          35  an enterprise must join again
│   ├── PhaseError              36  a message does not fit the phase that a party is in
│   └── MisbehaviourError       37  enterprises broke the protocol and cost its slot
├── RunFailedError              40  the federation did not finish
├── PrivacyError                50  a privacy guarantee cannot be given as asked
│   ├── PolicyError             51  an enterprise's own policy says no
│   ├── BudgetExhaustedError    52  an enterprise's privacy budget does not cover a release
│   ├── LedgerError             53  a privacy ledger cannot be read or written
│   └── LedgerRolledBackError   54  a privacy ledger is older than one that was shown before
└── AgentNotRunningError        60  no agent of the enterprise answers on its socket

0 is success, 1 an error that is ours (a traceback in the log), 2 wrong usage of a command.

A message says what was wrong, the value's name, the bound, and what to do. It never holds a
customer's value: messages are shown, logged, and sent to the coordinator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class FgcifError(Exception):
    """Base of all errors that a user can act on.

    ``exit_code`` ends the command. ``told_outside`` says whether the message may leave the
    enterprise: not where it counts rows; then only the class is told, and the enterprise's own
    log has the message.
    """

    exit_code: ClassVar[int] = 1
    told_outside: ClassVar[bool] = True


class ConfigurationError(FgcifError):
    """A value in the run's configuration is wrong."""

    exit_code = 10


class UnknownKeyError(ConfigurationError):
    """A key that no configuration has; the message names the nearest known one."""

    exit_code = 11


class NotAvailableError(ConfigurationError):
    """A setting that the configuration knows and this version does not carry out."""

    exit_code = 12


class SchemaError(FgcifError):
    """The consortium schema is wrong in itself, or cannot describe this table."""

    exit_code = 20


class DataError(FgcifError):
    """A table or another file cannot be read or written."""

    exit_code = 21
    told_outside = False


class MissingColumnError(DataError):
    """A column that the schema names is not in the table."""

    exit_code = 22


class ValueOutOfKindError(DataError):
    """A column holds values that cannot be of its feature's kind (counted, never shown)."""

    exit_code = 23


class ClassAbsentError(DataError):
    """A class of a target is absent at every enterprise."""

    exit_code = 24


class PartitionError(FgcifError):
    """Rows cannot be divided among enterprises as asked."""

    exit_code = 25
    told_outside = False


class SecureSumError(FgcifError):
    """A secure sum was refused, or failed as a whole; nothing of it is applied."""

    exit_code = 31


class CohortError(SecureSumError):
    """Who takes part allows no secure sum: too few, or others than they must be."""

    exit_code = 30


class OutOfRangeError(SecureSumError):
    """A value does not fit the words of the release."""

    exit_code = 32


class SlotSpentError(SecureSumError):
    """A slot was asked for twice."""

    exit_code = 33


class AuthenticationError(SecureSumError):
    """A message is not from whom it says, or not for this run, slot and cohort."""

    exit_code = 34


class NotJoinedError(SecureSumError):
    """An enterprise holds no keys of this run's epoch (it was restarted, or came late); it must
    join again."""

    exit_code = 35


class PhaseError(SecureSumError):
    """A message does not fit the phase that a party of a secure sum is in."""

    exit_code = 36


class MisbehaviourError(SecureSumError):
    """Enterprises broke the protocol of a secure sum and cost its slot.

    ``names`` are those of whom it is proven.
    """

    exit_code = 37

    def __init__(self, message: str, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


class RunFailedError(FgcifError):
    """The federation did not finish."""

    exit_code = 40


class PrivacyError(FgcifError):
    """A privacy guarantee cannot be given as asked."""

    exit_code = 50


class PolicyError(PrivacyError):
    """An enterprise's own policy says no; the message names the rule."""

    exit_code = 51


class BudgetExhaustedError(PrivacyError):
    """An enterprise's privacy budget does not cover what is asked of it."""

    exit_code = 52
    told_outside = False  # it tells what other runs have spent


class LedgerError(PrivacyError):
    """A privacy ledger cannot be read or written."""

    exit_code = 53
    told_outside = False


class LedgerRolledBackError(PrivacyError):
    """A privacy ledger is older than, or another than, one that was shown before."""

    exit_code = 54


class AgentNotRunningError(FgcifError):
    """No agent of the enterprise answers on its socket."""

    exit_code = 60


def by_exit_code(code: int, message: str) -> FgcifError:
    """Return the error of the class with this exit code; the base class for an unknown one."""
    kinds = [FgcifError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
        if kind.exit_code == code:
            return kind(message)
    return FgcifError(message)
