"""The multi-task network: encodings, heads, seeds, and its parameters as arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fgcif_flwr.config import ModelSection
from fgcif_flwr.data.encoding import FeatureLayout
from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.models.network import build_network, head_slices
from fgcif_flwr.models.parameters import from_vector, load_arrays, named_arrays, to_vector
from tests.learnable_tables import CHURN, CHURN_ONLY, LAYOUT, learnable_table

MODEL = ModelSection(hidden=(16, 8), embedding_dim=3, numeric_bins=4)


def test_one_output_column_per_output_of_each_head_in_order():
    network = build_network(LAYOUT, MODEL, seed=0)
    assert network.head_slices == (slice(0, 1), slice(1, 4), slice(4, 5))
    assert network.outputs(learnable_table(7)).shape == (7, 5)
    assert head_slices([CHURN]) == (slice(0, 1),)


def test_forward_of_encoded_columns_equals_outputs_of_the_table():
    network = build_network(LAYOUT, MODEL, seed=0)
    table = learnable_table(11)
    scores = network(
        torch.tensor(table.numeric), torch.tensor(table.missing), torch.tensor(table.categorical)
    )
    np.testing.assert_array_equal(scores.detach().numpy(), network.outputs(table))


def test_scores_of_a_row_do_not_depend_on_the_other_rows():
    network = build_network(LAYOUT, MODEL, seed=0)
    table = learnable_table(40)
    np.testing.assert_allclose(
        network.outputs(table)[[5, 9]], network.outputs(table.take([5, 9])), atol=1e-6
    )


def test_no_rows_give_no_scores():
    network = build_network(LAYOUT, MODEL, seed=0)
    assert network.outputs(learnable_table(3).take([])).shape == (0, 5)


def test_piecewise_linear_encoding_fills_equal_bins_in_turn():
    network = build_network(CHURN_ONLY, MODEL, seed=0)
    numeric = torch.tensor([[0.0, 1.0], [0.625, 0.25]])
    inputs = network.encode_inputs(numeric, torch.zeros(2, 2), torch.zeros(2, 2).long())
    expected = [[0, 0, 0, 0, 1, 1, 1, 1, 0, 0], [1, 1, 0.5, 0, 1, 0, 0, 0, 0, 0]]
    np.testing.assert_allclose(inputs.dense.numpy(), expected)


def test_standardised_encoding_is_minus_one_to_one_and_zero_where_missing():
    network = build_network(CHURN_ONLY, ModelSection(numeric_encoding="standardised"), seed=0)
    numeric, missing = torch.tensor([[0.0, 1.0], [0.75, 0.0]]), torch.tensor([[0, 0], [0, 1.0]])
    inputs = network.encode_inputs(numeric, missing, torch.zeros(2, 2).long())
    np.testing.assert_allclose(inputs.dense.numpy(), [[-1, 1, 0, 0], [0.5, 0, 0, 1]])


def test_equal_codes_of_two_features_have_embeddings_of_their_own():
    network = build_network(CHURN_ONLY, MODEL, seed=0)
    inputs = network.encode_inputs(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[3, 3]]))
    assert inputs.codes.tolist() == [[3, 7]]
    assert network.embedding.num_embeddings == 10


@pytest.mark.parametrize(
    ("numeric", "categorical", "cardinalities"),
    [((), ("plan",), (4,)), (("age",), (), ())],
    ids=["only categories", "only numbers"],
)
def test_layouts_of_one_kind_of_feature_are_scored(numeric, categorical, cardinalities):
    layout = FeatureLayout(numeric, categorical, cardinalities, (CHURN,))
    network = build_network(layout, MODEL, seed=0)
    scores = network(
        torch.zeros(2, len(numeric)),
        torch.zeros(2, len(numeric)),
        torch.zeros(2, len(categorical)).long(),
    )
    assert scores.shape == (2, 1)
    assert torch.isfinite(scores).all()


def test_the_seed_decides_the_weights_and_the_global_random_state_does_not():
    torch.manual_seed(1)
    first = to_vector(named_arrays(build_network(LAYOUT, MODEL, seed=5)))
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = to_vector(named_arrays(build_network(LAYOUT, MODEL, seed=5)))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (first != to_vector(named_arrays(build_network(LAYOUT, MODEL, seed=6)))).any()


def test_dropout_acts_in_training_alone_and_comes_from_the_generator_given():
    network = build_network(CHURN_ONLY, ModelSection(hidden=(64,), dropout=0.5), seed=0)
    inputs = network.prepare(learnable_table(20))
    plain = network.score(inputs)
    assert torch.equal(plain, network.score(inputs))
    dropped = [network.score(inputs, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(dropped[0], dropped[1])
    assert not torch.equal(dropped[0], dropped[2])
    assert not torch.equal(dropped[0], plain)


def test_arrays_go_to_one_vector_and_back():
    network = build_network(LAYOUT, MODEL, seed=0)
    arrays = named_arrays(network)
    vector = to_vector(arrays)
    assert vector.dtype == np.float32
    assert vector.shape == (sum(p.numel() for p in network.parameters()),)
    again = from_vector(vector, like=arrays)
    assert list(again) == list(arrays)
    for name in arrays:
        np.testing.assert_array_equal(again[name], arrays[name])


def test_loaded_arrays_decide_the_outputs():
    table = learnable_table(9)
    source, target = build_network(LAYOUT, MODEL, seed=0), build_network(LAYOUT, MODEL, seed=1)
    load_arrays(target, named_arrays(source))
    np.testing.assert_array_equal(target.outputs(table), source.outputs(table))


def test_arrays_are_copies():
    network = build_network(LAYOUT, MODEL, seed=0)
    arrays = named_arrays(network)
    before = to_vector(arrays).copy()
    for array in arrays.values():
        array += 1
    np.testing.assert_array_equal(to_vector(named_arrays(network)), before)


@pytest.mark.parametrize("change", ["absent", "extra", "shape"])
def test_arrays_of_another_network_are_refused_whole(change):
    network = build_network(LAYOUT, MODEL, seed=0)
    before = to_vector(named_arrays(network))
    arrays = {name: array + 1 for name, array in named_arrays(network).items()}
    if change == "absent":
        del arrays["heads.bias"]
    elif change == "extra":
        arrays["more"] = np.zeros(3, np.float32)
    else:
        arrays["heads.bias"] = np.zeros(9, np.float32)
    with pytest.raises(ConfigurationError, match=r"heads\.bias|more"):
        load_arrays(network, arrays)
    np.testing.assert_array_equal(to_vector(named_arrays(network)), before)


def test_a_vector_of_another_length_is_refused():
    arrays = named_arrays(build_network(LAYOUT, MODEL, seed=0))
    with pytest.raises(ValueError, match="shape"):
        from_vector(to_vector(arrays)[:-1], like=arrays)
