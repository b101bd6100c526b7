"""After a restart an enterprise knows from its journal what it spent, and joins anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fgcif_flwr.errors import NotJoinedError, SlotSpentError
from fgcif_flwr.secagg import Participant, SqliteJournal, fix_epoch, wire
from tests.first_slot import LAYOUT, WHO, encodings, other_lists, other_releases, script
from tests.secure_sum_rig import INPUT_HASH, Consortium, as_integers, sum_of_encodings


@dataclasses.dataclass
class Restarts:
    """One enterprise whose process ends between messages: only its journal's file stays."""

    path: Path
    journal: SqliteJournal | None = None

    def again(self) -> Participant:
        return script().party(self._reopened())

    def at(self, phase: str) -> Participant:
        return script().party_at(phase, self._reopened())

    def _reopened(self) -> SqliteJournal:
        self.close()
        self.journal = SqliteJournal(self.path)
        return self.journal

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()


@pytest.fixture
def restarts(tmp_path):
    one = Restarts(tmp_path / "journal")
    yield one
    one.close()


def test_after_a_restart_the_identical_release_gets_the_stored_bytes_and_no_other(restarts):
    told = script()
    restarts.at("masked")
    party = restarts.again()
    stored = party.released_before(told.release, INPUT_HASH)
    assert stored is not None
    assert wire.encode(stored) == told.answers["mask"]
    for request, input_hash in other_releases(told):
        with pytest.raises(SlotSpentError):
            party.released_before(request, input_hash)


def test_after_a_restart_a_slot_that_was_masked_is_lost_and_gets_no_shares(restarts):
    told = script()
    restarts.at("consented")
    party = restarts.again()
    with pytest.raises(NotJoinedError):
        party.unmask(told.unmask)
    assert told.ask(party, "consent") == told.answers["consent"]
    party.join(dataclasses.replace(told.manifest, epoch=2))
    with pytest.raises(NotJoinedError):
        party.unmask(told.unmask)


def test_after_a_restart_the_identical_unmask_gets_the_stored_bytes_and_no_other(restarts):
    told = script()
    restarts.at("answered")
    party = restarts.again()
    assert told.ask(party, "unmask") == told.answers["unmask"]
    for lists in other_lists(told):
        with pytest.raises(SlotSpentError):
            party.unmask(dataclasses.replace(told.unmask, **lists))


def test_a_restart_between_opening_and_masking_costs_the_slot(restarts):
    told = script()
    restarts.at("open")
    with pytest.raises(SlotSpentError, match="its reply was lost"):
        restarts.again().released_before(told.release, INPUT_HASH)


def test_a_process_that_was_set_back_with_its_randomness_does_not_spend_a_slot_again(restarts):
    # A machine restored from an image draws the same keys; the journal knows better.
    told = script()
    restarts.at("answered")
    party = restarts.at("advertised")
    assert party.run_id == told.release.run_id
    with pytest.raises(SlotSpentError):
        party.open_release(told.release, b"\1" * 32)
    with pytest.raises(SlotSpentError):
        party.consent(dataclasses.replace(told.consent, **other_lists(told)[0]))


def test_an_enterprise_that_was_restarted_takes_part_again_in_the_next_epoch(restarts):
    told = script()
    restarts.at("masked")
    consortium = Consortium(4)
    manifest = dataclasses.replace(consortium.manifest, epoch=2)
    party = restarts.again()
    consortium.participants[WHO] = party
    joins = [one.join(manifest) for one in consortium.participants.values()]
    for one in consortium.participants.values():
        one.begin(joins)
    assert party.run_id != told.release.run_id
    consortium.epoch = fix_epoch(manifest, joins)
    slot = consortium.open_slot(LAYOUT)
    assert WHO in slot.cohort
    encoded = encodings(consortium)
    consortium.release(slot, encoded)
    expected = sum_of_encodings(list(encoded.values()))
    assert np.array_equal(as_integers(consortium.unmask(slot), LAYOUT), expected)
