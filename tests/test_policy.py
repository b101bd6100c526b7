"""What an enterprise lets out by its own policy, whatever run the coordinator proposes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fgcif_flwr.errors import CohortError, SecureSumError
from fgcif_flwr.privacy.door import Policy
from fgcif_flwr.privacy.statement import PrivacyStatement
from fgcif_flwr.secagg import Manifest
from fgcif_flwr.secagg.keys import identity_from_seed
from tests.doorway import WHO, WHOLE, Compute, Doorway
from tests.secure_sum_rig import RUN, stream


def manifest(count: int, **asked: int | bool) -> Manifest:
    """Of so many enterprises, with what a coordinator asks for."""
    publics = [identity_from_seed(stream(str(index))(32)).public for index in range(count)]
    roster = tuple((f"e{index:03d}", public) for index, public in enumerate(publics))
    return Manifest(RUN, 1, "{}", roster, **asked)


@pytest.mark.parametrize(("count", "least"), [(5, 1), (19, 1), (20, 2), (50, 5), (110, 11)])
def test_a_run_that_withstands_fewer_colluders_than_a_tenth_of_its_roster_is_not_joined(
    count, least
):
    Policy().check_manifest(manifest(count))
    Policy().check_manifest(manifest(count, tolerated_colluders=least))
    if least > 1:
        with pytest.raises(SecureSumError) as told:
            Policy().check_manifest(manifest(count, tolerated_colluders=least - 1))
        assert str(told.value) == (
            f"policy: secagg.tolerated_colluders is {least - 1}, below this enterprise's minimum "
            f"of {least}"
        )


def test_an_enterprise_may_ask_for_more_or_for_fewer_colluders():
    strict, easy = Policy(minimum_colluders=4), Policy(minimum_colluders=1)
    few, more = manifest(30, tolerated_colluders=3), manifest(30, tolerated_colluders=4)
    strict.check_manifest(more)
    with pytest.raises(SecureSumError, match=r"tolerated_colluders is 3.*minimum of 4"):
        strict.check_manifest(few)
    easy.check_manifest(manifest(30, tolerated_colluders=1))


def test_a_run_whose_sums_could_cover_fewer_honest_ones_than_the_policy_wants_is_not_joined():
    asked = manifest(50, threshold=40, tolerated_dropouts=5)
    assert asked.parameters(50).honest_in_any_sum == 34
    Policy(minimum_honest=34).check_manifest(asked)
    with pytest.raises(SecureSumError, match=r"policy: a sum could cover 34 honest .* of 35"):
        Policy(minimum_honest=35).check_manifest(asked)
    Policy(minimum_honest=35).check_manifest(replace(asked, consistency=True))


def test_parameters_that_hold_for_no_secure_sum_are_refused_before_the_policy_is_asked():
    with pytest.raises(CohortError):
        Policy(minimum_colluders=0).check_manifest(manifest(10, tolerated_colluders=0))


# At each release.


@pytest.fixture
def doorway() -> Doorway:
    return Doorway()


def test_a_cohort_below_the_policys_minimum_is_refused_before_anything_is_computed():
    doorway = Doorway(Policy(minimum_cohort=5))
    _, request = doorway.open()
    compute = Compute()
    with pytest.raises(SecureSumError, match=r"policy: a cohort of 4 is below.*minimum of 5"):
        doorway.release(request, compute)
    assert compute.calls == 0
    assert doorway.log.entries == []


def test_a_privacy_unit_that_the_policy_does_not_allow_is_refused_before_anything_is_computed(
    doorway,
):
    _, request = doorway.open()
    compute = Compute()
    statement = PrivacyStatement("customer", "distributed", 1.0, 1e-6)
    with pytest.raises(SecureSumError, match=r"policy: .* privacy\.unit = customer"):
        doorway.release(request, compute, statement)
    assert compute.calls == 0
    assert doorway.log.entries == []


def test_a_policy_that_wants_a_unit_refuses_a_release_without_one():
    doorway = Doorway(Policy(units=frozenset({"customer"})))
    compute = Compute()
    with pytest.raises(SecureSumError, match=r"policy: .* privacy\.unit = none"):
        doorway.release(doorway.open()[1], compute)
    assert compute.calls == 0


def test_a_refusal_by_policy_does_not_spend_the_slot(doorway):
    # Nothing was opened or computed for it, so the slot may still be asked for lawfully.
    _, request = doorway.open()
    with pytest.raises(SecureSumError, match="policy"):
        doorway.release(replace(request, cohort=request.cohort[:2]), Compute())
    assert doorway.release(request, Compute()).slot == 1
    assert len(doorway.log.entries) == 1


def test_the_policys_minimum_holds_where_the_threshold_would_allow_fewer():
    doorway = Doorway(Policy(minimum_cohort=4))
    slot, request = doorway.open()
    three = doorway.consortium.collect(WHOLE, doorway.ads[1:]).release_request(WHO)
    assert len(three.cohort) >= slot.epoch.parameters.smallest_cohort
    with pytest.raises(SecureSumError, match="policy"):
        doorway.release(three, Compute())
    assert doorway.release(request, Compute()).slot == 1


def test_after_a_refusal_by_policy_the_next_slot_is_served(doorway):
    _, request = doorway.open()
    with pytest.raises(SecureSumError):
        doorway.release(replace(request, cohort=request.cohort[:1]), Compute())
    _, later = doorway.open()
    assert doorway.release(later, Compute()).slot == 2
