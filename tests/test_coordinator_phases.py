"""What comes to a coordinator out of its phase, twice or from too few is a named error."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fgcif_flwr.errors import AuthenticationError, PhaseError, SecureSumError
from fgcif_flwr.secagg import SlotCollection
from fgcif_flwr.secagg.epoch import OPENED_BYTES
from tests.first_slot import LAYOUT, encodings
from tests.secure_sum_rig import INPUT_HASH, Consortium, as_integers, sum_of_encodings


def test_what_comes_to_a_coordinator_out_of_its_phase_is_a_named_error():
    consortium = Consortium(5, consistency=True)
    slot = consortium.open_slot(LAYOUT)
    encoded = encodings(consortium)
    late = consortium.masked(slot, "e004", encoded["e004"])
    consortium.release(slot, encoded, lost=["e004"])
    with pytest.raises(SecureSumError, match="sent two vectors"):
        slot.receive(dataclasses.replace(late, sender="e000"))
    with pytest.raises(SecureSumError, match="does not belong to slot 1"):
        slot.receive(dataclasses.replace(late, sender="e009"))
    with pytest.raises(SecureSumError, match="does not belong to slot 1"):
        slot.receive(dataclasses.replace(late, slot=2))
    closed = slot.close()
    with pytest.raises(PhaseError, match="the vector of e004 is late"):
        slot.receive(late)
    with pytest.raises(PhaseError, match="closed already"):
        slot.close()
    quorum = consortium.epoch.parameters.consents
    with pytest.raises(SecureSumError, match=f"0 enterprises consented.*; {quorum} are needed"):
        closed.request("e000")
    said = consortium.participants["e000"].consent(closed.consent_request())
    with pytest.raises(AuthenticationError, match="e001"):
        closed.consent(dataclasses.replace(said, sender="e001"))
    with pytest.raises(SecureSumError, match="does not belong to slot 1"):
        closed.consent(dataclasses.replace(said, sender="e004"))
    closed.consent(said)
    with pytest.raises(SecureSumError, match="answered twice"):
        closed.consent(said)
    for name in ("e001", "e002", "e003"):
        closed.consent(consortium.participants[name].consent(closed.consent_request()))
    request = closed.request("e000")
    least = consortium.epoch.parameters.threshold
    with pytest.raises(SecureSumError, match=rf"0 enterprises answered.*; {least}\s+are needed"):
        closed.finish()
    reply = consortium.participants["e000"].unmask(request)
    with pytest.raises(SecureSumError, match="did not answer for every neighbour"):
        closed.answer(dataclasses.replace(reply, shares=reply.shares[:-OPENED_BYTES]))
    with pytest.raises(SecureSumError, match="does not belong to slot 1"):
        closed.answer(dataclasses.replace(reply, slot=2))
    with pytest.raises(SecureSumError, match="does not belong to slot 1"):
        closed.answer(dataclasses.replace(reply, sender="e004"))
    closed.answer(reply)
    with pytest.raises(SecureSumError, match="answered twice"):
        closed.answer(reply)
    for name in ("e001", "e002", "e003"):
        closed.answer(consortium.participants[name].unmask(request))
    expected = sum_of_encodings([v for n, v in encoded.items() if n != "e004"])
    assert np.array_equal(as_integers(closed.finish(), LAYOUT), expected)


def test_a_slot_wants_advertisements_of_its_own_once_from_enough():
    consortium = Consortium(4, threshold=3, dropouts=1)
    ads = consortium.advertise()
    with pytest.raises(SecureSumError, match="2 of 4 enterprises advertised; 3 are needed"):
        consortium.collect(LAYOUT, ads[:2])
    with pytest.raises(SecureSumError, match="e000 advertised twice"):
        consortium.collect(LAYOUT, [*ads, ads[0]])
    with pytest.raises(SecureSumError, match="is for slot 1"):
        SlotCollection(consortium.epoch, 2, "test", LAYOUT, INPUT_HASH, ads)
