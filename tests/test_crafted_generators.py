"""Generator arrays that a coordinator made up are refused before anything is built from them."""

from __future__ import annotations

import numpy as np
import pytest

from fgcif_flwr.errors import DataError
from fgcif_flwr.generative.federated_ctgan import Coordinator, FederatedCtgan
from fgcif_flwr.generative.marginals import MarginalGenerator, MarginalSettings
from fgcif_flwr.generative.marginals.learning import Learner
from fgcif_flwr.generative.marginals.measurements import ONE_WAY, blocks
from tests.generated_tables import SMALL, exact_counts
from tests.learnable_tables import LAYOUT, learnable_table

TABLE = learnable_table(200)


@pytest.fixture(scope="module")
def networks():
    """The arrays of an honest generator of two networks."""
    counts = exact_counts(LAYOUT, TABLE)
    return Coordinator(LAYOUT, SMALL, counts, seed=1).generator().arrays()


@pytest.fixture(scope="module")
def marginals():
    settings = MarginalSettings()
    learner = Learner(LAYOUT, settings)
    sums = {name: np.ones(size) for name, size, _ in blocks(ONE_WAY, LAYOUT, settings)}
    learner.add(ONE_WAY, sums, dict.fromkeys(sums, 0.0))
    return learner.generator().arrays()


def test_honest_arrays_are_read(networks, marginals):
    random = np.random.default_rng(0)
    assert len(FederatedCtgan.from_arrays(LAYOUT, SMALL, networks).sample(5, random)) == 5
    settings = MarginalSettings()
    assert len(MarginalGenerator.from_arrays(LAYOUT, settings, marginals).sample(5, random)) == 5


def test_a_transform_wider_than_the_shared_one_is_refused(networks):
    """Small arrays could otherwise ask for memory that grows with their square."""
    atoms = np.linspace(0, 1, 3000, dtype=np.float32)
    crafted = networks | {
        "transform.0.atoms": atoms,
        "transform.0.mass": np.ones(
            networks["transform.0.mass"].size + atoms.size - networks["transform.0.atoms"].size,
            np.float32,
        ),
    }
    with pytest.raises(DataError, match="not the shared one"):
        FederatedCtgan.from_arrays(LAYOUT, SMALL, crafted)


@pytest.mark.parametrize("name", ["mass", "weights"])
def test_negative_shares_of_a_number_are_refused(networks, name):
    key = f"transform.0.{name}"
    crafted = networks[key].copy()
    crafted[0] = -1
    with pytest.raises(DataError):
        FederatedCtgan.from_arrays(LAYOUT, SMALL, networks | {key: crafted})


def test_negative_counts_of_a_category_are_refused(networks):
    """They would fail only where there are rows enough to draw among them."""
    key = next(name for name in networks if name.endswith(".counts"))
    crafted = networks[key].copy()
    crafted[0] = -1
    with pytest.raises(DataError):
        FederatedCtgan.from_arrays(LAYOUT, SMALL, networks | {key: crafted})


def test_numbers_beyond_float32_are_refused(marginals):
    key = next(name for name in marginals if name.startswith("tables"))
    crafted = marginals[key].astype(np.float64)
    crafted[0] = 1e300
    with pytest.raises(DataError):
        MarginalGenerator.from_arrays(LAYOUT, MarginalSettings(), marginals | {key: crafted})
