"""What must outlive a restart: which slots are spent, and the replies that were given.

A slot gets one reply in each phase, ever. It is spent, durably, before anything is computed for it,
and its reply is kept before it is sent: the same request gets the same bytes again, any other is
refused. A process that ends in between has lost the slot, and the next one knows.

For each run and phase a journal holds the highest slot spent, for ever: all slots up to it are
spent, the skipped ones too. Of the two newest it holds the replies; they are large.
"""

from fgcif_flwr.secagg.journal.memory import MemoryJournal
from fgcif_flwr.secagg.journal.rules import Journal
from fgcif_flwr.secagg.journal.sqlite import SqliteJournal

__all__ = ["Journal", "MemoryJournal", "SqliteJournal"]
