"""Who is joined to whom: regular, symmetric, reproducible from the seed."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest

from fgcif_flwr.errors import CohortError
from fgcif_flwr.secagg.graph import Graph

SEED = bytes(range(32))
SIZES = [(5, 2), (12, 4), (13, 6), (40, 10), (101, 34)]
VECTORS = json.loads((Path(__file__).parent / "vectors" / "graph.json").read_text("utf-8"))


@pytest.mark.parametrize(("size", "neighbours"), SIZES)
def test_everyone_has_k_neighbours_and_they_have_it(size, neighbours):
    graph = Graph.regular(size, neighbours, SEED)
    for i in range(size):
        near = graph.receivers(i)
        assert len(near) == neighbours + 1
        assert list(near) == sorted(set(near))
        assert i in near
        for j in range(size):
            assert (j in near) == (i in graph.receivers(j))
            assert graph.adjacent(i, j) == (j in near and j != i)


@pytest.mark.parametrize("graph", [Graph.regular(40, 10, SEED), Graph.complete(7)])
def test_the_matrix_and_the_places_say_the_same_as_the_receivers(graph):
    assert graph.receiver_matrix.dtype == np.int32
    assert graph.receiver_matrix.shape == (graph.size, graph.neighbours + 1)
    for dealer in range(graph.size):
        near = graph.receivers(dealer)
        assert tuple(graph.receiver_matrix[dealer]) == near
        assert [graph.place(dealer, holder) for holder in near] == list(range(len(near)))


def test_a_complete_graph_joins_everyone_without_a_matrix_of_its_own():
    graph = Graph.complete(10_000)
    assert graph.is_complete
    assert graph.receivers(3) is graph.receivers(4)
    assert graph.receivers(3) == tuple(range(10_000))
    assert graph.receiver_matrix.strides[0] == 0
    assert graph.place(17, 9_999) == 9_999


@pytest.mark.parametrize(
    "vector", VECTORS["graphs"], ids=lambda v: f"{v['size']}-{v['neighbours']}"
)
def test_the_graph_is_the_known_one_of_its_seed(vector):
    graph = Graph.regular(vector["size"], vector["neighbours"], bytes.fromhex(vector["seed"]))
    assert graph.ring.tolist() == vector["ring"]
    assert [list(graph.receivers(i)) for i in range(graph.size)] == vector["receivers"]


def test_the_ring_is_drawn_as_documented():
    digests = [hashlib.sha256(SEED + i.to_bytes(4, "big")).hexdigest() for i in range(300)]
    expected = [i for _, i in sorted(zip(digests, range(300), strict=True))]
    assert Graph.regular(300, 8, SEED).ring.tolist() == expected


def test_another_seed_draws_another_graph_and_the_same_seed_the_same():
    one, again = Graph.regular(40, 10, SEED), Graph.regular(40, 10, bytes(SEED))
    other = Graph.regular(40, 10, bytes(32))
    assert one == again
    assert (one.receiver_matrix == again.receiver_matrix).all()
    assert (one.receiver_matrix != other.receiver_matrix).any()


def test_no_neighbour_is_likelier_than_another():
    # Chi-square over 39 possible neighbours of holder 0; false alarm 1e-6 (statistic below 104).
    draws, counts = 400, np.zeros(40)
    for i in range(draws):
        counts[list(Graph.regular(40, 10, i.to_bytes(32, "big")).receivers(0))] += 1
    expected = draws * 10 / 39
    assert counts[0] == draws
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 104


@pytest.mark.parametrize(
    "graph", [Graph.regular(40, 10, SEED), Graph.regular(1000, 96, SEED), Graph.complete(40)]
)
def test_those_starved_are_those_alive_with_too_few_alive_around_them(graph):
    rng = np.random.default_rng(5)
    for share in (0.0, 0.3, 0.8, 1.0):
        alive = rng.random(graph.size) < share
        for threshold in (1, 7, graph.neighbours, graph.neighbours + 1):
            expected = tuple(
                i
                for i in range(graph.size)
                if alive[i] and alive[list(graph.receivers(i))].sum() < threshold
            )
            assert graph.starved(alive, threshold) == expected


def test_large_graphs_are_drawn_and_searched_quickly():
    started = time.perf_counter()
    graph = Graph.regular(10_000, 116, b"\x01" * 32)
    assert graph.receiver_matrix.shape == (10_000, 117)
    assert time.perf_counter() - started < 2
    alive = np.ones(10_000, bool)
    started = time.perf_counter()
    assert graph.starved(alive, 117) == ()
    assert time.perf_counter() - started < 0.05


@pytest.mark.parametrize(
    ("size", "neighbours"), [(10, 3), (10, 0), (10, -2), (10, 9), (10, 10), (3, 2)]
)
def test_a_number_of_neighbours_that_makes_no_regular_graph_is_refused(size, neighbours):
    with pytest.raises(CohortError, match="even number of neighbours"):
        Graph.regular(size, neighbours, SEED)


def test_a_seed_of_another_length_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        Graph.regular(10, 4, b"short")


@pytest.mark.parametrize("graph", [Graph.regular(12, 4, SEED), Graph.complete(12)])
def test_positions_that_do_not_exist_are_refused(graph):
    for position in (-1, 12):
        with pytest.raises(CohortError, match="no holder"):
            graph.receivers(position)
        with pytest.raises(CohortError, match="no holder"):
            graph.adjacent(0, position)
        with pytest.raises(CohortError, match="no holder"):
            graph.place(position, position)
    with pytest.raises(ValueError, match="shape"):
        graph.starved(np.ones(11, bool), 3)


def test_a_holder_without_a_share_has_no_place():
    graph = Graph.regular(12, 4, SEED)
    stranger = next(j for j in range(12) if j not in graph.receivers(0))
    with pytest.raises(CohortError, match="has no share"):
        graph.place(0, stranger)
