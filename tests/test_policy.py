"""What an enterprise lets out by its own policy, whatever run the coordinator proposes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fgcif_flwr.config import unflatten
from fgcif_flwr.errors import CohortError, ConfigurationError, PolicyError
from fgcif_flwr.federation.local_work import local_steps
from fgcif_flwr.privacy.mechanisms import Mechanism
from fgcif_flwr.privacy.noisy_sum import Block, NoisySum
from fgcif_flwr.privacy.plan import PlannedRelease, PrivacyPlan
from fgcif_flwr.privacy.policy import Policy, load_policy
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
        with pytest.raises(PolicyError) as told:
            Policy().check_manifest(manifest(count, tolerated_colluders=least - 1))
        assert str(told.value) == (
            f"policy: secagg.tolerated_colluders is {least - 1}, below this enterprise's "
            f"minimum_colluders of {least}"
        )


def test_an_enterprise_may_ask_for_more_or_for_fewer_colluders():
    strict, easy = Policy(minimum_colluders=4), Policy(minimum_colluders=1)
    few, more = manifest(30, tolerated_colluders=3), manifest(30, tolerated_colluders=4)
    strict.check_manifest(more)
    with pytest.raises(PolicyError, match=r"tolerated_colluders is 3.*minimum_colluders of 4"):
        strict.check_manifest(few)
    easy.check_manifest(manifest(30, tolerated_colluders=1))


def test_a_run_whose_sums_could_cover_fewer_honest_ones_than_the_policy_wants_is_not_joined():
    asked = manifest(50, threshold=40, tolerated_dropouts=5)
    assert asked.parameters(50).honest_in_any_sum == 34
    Policy(minimum_honest=34).check_manifest(asked)
    with pytest.raises(
        PolicyError, match=r"policy: a sum could cover 34 honest .*minimum_honest of 35"
    ):
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
    with pytest.raises(PolicyError, match=r"policy: a cohort of 4 is below.*minimum_cohort of 5"):
        doorway.release(request, compute)
    assert compute.calls == 0
    assert doorway.log.entries == []


def test_a_policy_that_wants_a_unit_refuses_a_release_without_one():
    doorway = Doorway(Policy(units=frozenset({"customer"})))
    compute = Compute()
    with pytest.raises(PolicyError, match=r"policy: .* units do not allow privacy\.unit = none"):
        doorway.release(doorway.open()[1], compute)
    assert compute.calls == 0


def test_a_refusal_by_policy_does_not_spend_the_slot(doorway):
    # Nothing was opened or computed for it, so the slot may still be asked for lawfully.
    _, request = doorway.open()
    with pytest.raises(PolicyError, match="policy"):
        doorway.release(replace(request, cohort=request.cohort[:2]), Compute())
    assert doorway.release(request, Compute()).slot == 1
    assert len(doorway.log.entries) == 1


def test_the_policys_minimum_holds_where_the_threshold_would_allow_fewer():
    doorway = Doorway(Policy(minimum_cohort=4))
    slot, request = doorway.open()
    three = doorway.consortium.collect(WHOLE, doorway.ads[1:]).release_request(WHO)
    assert len(three.cohort) >= slot.epoch.parameters.smallest_cohort
    with pytest.raises(PolicyError, match="policy"):
        doorway.release(three, Compute())
    assert doorway.release(request, Compute()).slot == 1


def test_after_a_refusal_by_policy_the_next_slot_is_served(doorway):
    _, request = doorway.open()
    with pytest.raises(PolicyError):
        doorway.release(replace(request, cohort=request.cohort[:1]), Compute())
    _, later = doorway.open()
    assert doorway.release(later, Compute()).slot == 2


# Of a run, by its privacy plan; and the file.


def plan(**changed) -> PrivacyPlan:
    """Ten releases of two numbers under customer, distributed."""
    noisy = NoisySum((Block("update", 2),), 100, 20.0)
    mechanism = Mechanism("customer", "distributed", noisy)
    release = PlannedRelease("train", 10, mechanism, ((0.3, 1.0),))
    whole = PrivacyPlan("customer", "distributed", 1e-6, 8, (release,))
    return replace(whole, **changed)


FEATURES = ("age", "income")


def test_a_run_within_the_policy_passes():
    Policy(
        units={"customer"},
        epsilon_per_run=2 * plan().epsilon,
        tasks={"train"},
        features={"age", "income", "city"},
        maximum_release_size=2,
    ).check_run(plan(), FEATURES)


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({"units": {"enterprise"}}, "units do not allow privacy.unit = customer"),
        ({"units": {"none"}}, "units do not allow privacy.unit = customer"),
        ({"epsilon_per_run": 0.01}, "above this enterprise's epsilon_per_run of 0.01"),
        ({"delta_per_run": 1e-7}, "above this enterprise's delta_per_run of 1e-07"),
        ({"tasks": {"evaluate"}}, "tasks do not allow 'train'"),
        ({"features": {"age"}}, "features does not allow income"),
        ({"maximum_release_size": 1}, "above this enterprise's maximum_release_size of 1"),
    ],
)
def test_a_run_that_asks_for_more_is_refused_with_the_rule_named(policy, told):
    with pytest.raises(PolicyError, match=told) as refused:
        Policy(**{"epsilon_per_run": 10.0, **policy}).check_run(plan(), FEATURES)
    assert str(refused.value).startswith("policy: ")
    assert refused.value.exit_code == 51


def test_a_policy_that_wants_a_unit_refuses_a_run_without_one():
    with pytest.raises(PolicyError, match="unit = none; allowed: customer"):
        Policy(units={"customer"}).check_run(None, FEATURES)


def test_a_threshold_below_the_policys_is_refused():
    asked = manifest(50, threshold=40, tolerated_dropouts=5)
    Policy(minimum_threshold=40).check_manifest(asked)
    with pytest.raises(PolicyError, match=r"threshold is 40, below .* minimum_threshold of 41"):
        Policy(minimum_threshold=41).check_manifest(asked)


def test_a_policy_is_read_from_toml(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text('units = ["customer"]\nepsilon_per_run = 0.5\nfeatures = ["age"]\n')
    policy = load_policy(path)
    assert policy == Policy(units={"customer"}, epsilon_per_run=0.5, features={"age"})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "there is no policy"),
        ("units = ", "not valid TOML"),
        ('units = ["customers"]', "units: "),
        ("epsilon_per_run = 0", "epsilon_per_run: input should be greater than 0"),
        ("epsilon_per_run = inf", "epsilon_per_run: input should be a finite number"),
        ("delta_total = 1.0", "delta_total: input should be less than 1"),
        ("minimum_cohort = 2", "minimum_cohort: input should be greater than or equal to 3"),
        ("epsilon_per_runs = 1.0", r"epsilon_per_runs: .* did you mean epsilon_per_run\?"),
        ("secure_aggregation = false", "secure_aggregation: there is no such key"),
    ],
)
def test_a_policy_that_cannot_be_read_is_refused_and_no_other_takes_its_place(tmp_path, text, told):
    path = tmp_path / "policy.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=told):
        load_policy(path)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, 2 * 128),
        ({"training.algorithm": "fedsgd"}, 0),
        ({"generator.kind": "ctgan", "generator.steps": 500}, 2 * 128 + 500),
        (
            {
                "privacy.unit": "customer",
                "privacy.noise": "local",
                "privacy.epsilon": 1.0,
                "privacy.delta": 1e-5,
                "privacy.sampling_rate": 1e-6,
                "training.local_epochs": 1000,
            },
            1_000_000_000,
        ),
    ],
)
def test_what_a_run_asks_to_train_is_bounded_by_its_manifest_alone(settings, steps):
    config = unflatten(settings)
    assert local_steps(config) == steps
    if steps > Policy().maximum_local_steps:
        with pytest.raises(PolicyError, match="maximum_local_steps"):
            Policy().check_work(steps)
    else:
        Policy().check_work(steps)
