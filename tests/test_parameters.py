"""Parameters of the secure sum: the rules, the search for a graph, and what they promise."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pytest
from scipy.stats import hypergeom

from fgcif_flwr.errors import CohortError
from fgcif_flwr.secagg import failure_probability as failing
from fgcif_flwr.secagg.graph import Graph
from fgcif_flwr.secagg.parameters import SecureSumParameters

LYING, SEMI_HONEST = "lying coordinator", "semi-honest coordinator"


def scipy_log2(population: int, marked: int, drawn: int, at_least: int) -> float:
    return float(hypergeom.logsf(at_least - 1, population, marked, drawn)) / math.log(2)


@pytest.mark.parametrize(
    ("population", "marked", "drawn"),
    [(10, 3, 4), (99, 10, 20), (949, 100, 48), (9499, 1000, 58), (9999, 500, 116), (5, 5, 3)],
)
def test_tails_are_those_of_the_hypergeometric_distribution(population, marked, drawn):
    for at_least in range(-1, drawn + 2):
        exact = failing.log2_tail(population, marked, drawn, at_least)
        if at_least > min(marked, drawn):
            assert exact == -math.inf
        else:
            expected = scipy_log2(population, marked, drawn, at_least)
            assert exact == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_tail_sums_to_one_and_is_counted_by_hand_in_a_small_case():
    assert failing.log2_tail(10, 3, 4, 0) == 0
    # 3 of 3 marked among 4 of 10: C(3,3) C(7,1) / C(10,4) = 7 / 210
    assert failing.upper_tail(10, 3, 4, 3).as_integer_ratio() == (1, 30)


@pytest.mark.parametrize(("marked", "drawn"), [(11, 1), (1, 11), (-1, 2), (2, -1)])
def test_more_than_there_are_cannot_be_marked_or_drawn(marked, drawn):
    with pytest.raises(ValueError, match="of 10"):
        failing.log2_tail(10, marked, drawn, 1)


def test_the_smallest_rare_count_is_the_first_that_keeps_the_bound():
    a = failing.smallest_rare(949, 100, 48, 1000, failing.SECURITY)
    assert 1000 * failing.upper_tail(949, 100, 48, a) <= failing.SECURITY
    assert 1000 * failing.upper_tail(949, 100, 48, a - 1) > failing.SECURITY


def scipy_holds(n: int, d: int, c: int, k: int, t: int, coordinator: str) -> bool:
    """The bounds of the module's docstring, once more and in floats."""
    size, half = math.log2(n), k // 2
    if size + scipy_log2(n - 1, d, k, k - t + 1) > -20:
        return False
    if coordinator == LYING:
        return size + scipy_log2(n - d - 1, c, half, t - 1 - half) <= -40
    opened = size + scipy_log2(n - d - 1, c, k, t)
    cut = size + half * math.log2((c + d) / n)
    return bool(np.logaddexp2(opened, cut) <= -40)


@pytest.mark.parametrize("coordinator", [LYING, SEMI_HONEST])
@pytest.mark.parametrize("n", [101, 200, 1000, 10_000])
def test_the_search_finds_the_smallest_graph_that_keeps_the_bounds(n, coordinator):
    chosen = SecureSumParameters.choose(n, consistency=coordinator == LYING)
    d, c, k, t = n // 20, n // 10, chosen.neighbours, chosen.threshold
    assert chosen.withstands == coordinator
    assert (chosen.tolerated_dropouts, chosen.tolerated_colluders) == (d, c)
    assert scipy_holds(n, d, c, k, t, coordinator)
    assert not scipy_holds(n, d, c, k, t - 1, coordinator)
    for smaller in range(2, k, 2):
        # Security wants a large threshold, correctness a small one.
        wanted = range(1, smaller + 2)
        assert not any(scipy_holds(n, d, c, smaller, t, coordinator) for t in wanted)
    assert chosen.log2_insecure <= -40
    assert chosen.log2_unopened <= -20


def test_known_sizes_of_graphs():
    lying = {n: SecureSumParameters.choose(n) for n in (1000, 10_000)}
    assert {n: (p.neighbours, p.threshold) for n, p in lying.items()} == {
        1000: (96, 76),
        10_000: (116, 91),
    }
    semi_honest = SecureSumParameters.choose(1000, consistency=False)
    assert (semi_honest.neighbours, semi_honest.threshold) == (38, 25)
    found = failing.smallest_neighbourhood(1000, 50, 100, failing.least_threshold_ignoring_cuts)
    assert found == (66, 49)


def test_the_search_is_quick_where_it_finds_a_graph_and_where_it_does_not():
    failing.smallest_neighbourhood.cache_clear()
    failing.smallest_rare.cache_clear()
    started = time.perf_counter()
    assert not SecureSumParameters.choose(10_000).complete
    assert SecureSumParameters.choose(10_000, tolerated_colluders=7000).complete
    assert time.perf_counter() - started < 3


def ring_of(rng: np.random.Generator, n: int, k: int) -> Graph:
    return Graph.regular(n, k, rng.bytes(32))


def heavy_half(graph: Graph, colluding: np.ndarray, x: int) -> bool:
    """Whether some k/2 consecutive places of the ring hold at least x colluders."""
    half = graph.neighbours // 2
    around = colluding[graph.ring]
    windows = sum(np.roll(around, -step).astype(int) for step in range(half))
    return bool((windows >= x).any())


def honest_components(graph: Graph, honest_survivors: np.ndarray) -> int:
    left, components = set(np.flatnonzero(honest_survivors).tolist()), 0
    while left:
        components += 1
        reached = [left.pop()]
        while reached:
            near = left.intersection(graph.receivers(reached.pop()))
            left -= near
            reached += near
    return components


def test_who_is_dropped_cuts_nobody_off_unless_half_a_neighbourhood_nearly_all_colludes():
    # Exaggerated: 40 holders, 8 neighbours, 10 colluders. The coordinator drops all honest ones in
    # two arcs of k/2, wherever they do most harm, or anyone at random.
    rng = np.random.default_rng(11)
    n, k, t, half = 40, 8, 7, 4
    cut = 0
    for _ in range(60):
        graph = ring_of(rng, n, k)
        colluding = np.zeros(n, bool)
        colluding[rng.choice(n, 10, replace=False)] = True
        arcs = [graph.ring[(start + np.arange(half)) % n] for start in range(n)]
        attacks = [np.concatenate((arcs[i], arcs[j])) for i in range(n) for j in range(i)]
        attacks += [rng.choice(n, int(rng.integers(1, 20)), replace=False) for _ in range(50)]
        for dropped in attacks:
            alive = np.ones(n, bool)
            alive[dropped] = False
            alive |= colluding
            if graph.starved(alive, t):
                continue  # every honest enterprise refuses this list
            if honest_components(graph, alive & ~colluding) > 1:
                cut += 1
                assert heavy_half(graph, colluding, t - 1 - half)
    assert cut > 0


def test_a_heavy_half_is_as_rare_as_its_bound_says():
    # 4000 draws; five standard deviations, false alarm below 1e-6.
    rng = np.random.default_rng(12)
    n, k, c, x = 40, 8, 6, 4
    draws = 4000
    bound = n * float(failing.upper_tail(n - 1, c, k // 2, x))
    graph = ring_of(rng, n, k)
    seen = 0
    for _ in range(draws):
        colluding = np.zeros(n, bool)
        colluding[rng.choice(n, c, replace=False)] = True
        seen += heavy_half(graph, colluding, x)
    assert 0 < seen / draws <= bound + 5 * math.sqrt(bound / draws)


def test_parameters_against_a_lying_coordinator_leave_no_two_disjoint_sets_of_openers():
    for n in (101, 200, 1000, 10_000):
        chosen = SecureSumParameters.choose(n)
        half = chosen.neighbours // 2
        most_in_a_half = chosen.threshold - 2 - half
        assert 2 * chosen.threshold > chosen.shares + 2 * most_in_a_half


@pytest.mark.parametrize("n", [3, 5, 50, 100])
def test_up_to_a_hundred_the_graph_is_complete_and_without_the_exchange(n):
    chosen = SecureSumParameters.choose(n)
    assert chosen.complete
    assert (chosen.neighbours, chosen.shares) == (n - 1, n)
    assert not chosen.consistency
    assert chosen.withstands == LYING
    assert chosen.smallest_cohort == chosen.threshold
    assert (chosen.log2_insecure, chosen.log2_unopened) == (-math.inf, -math.inf)


def test_above_a_hundred_it_is_regular_and_lists_are_signed():
    chosen = SecureSumParameters.choose(1000)
    assert not chosen.complete
    assert chosen.consistency
    assert chosen.smallest_cohort == 950
    assert chosen.honest_in_any_sum == 850
    assert chosen.quorum == 551


def test_a_regular_graph_without_the_exchange_says_what_it_does_not_withstand():
    chosen = SecureSumParameters.choose(1000, consistency=False)
    assert chosen.withstands == SEMI_HONEST
    assert SecureSumParameters.choose(1000, consistency=False, neighbours=999).withstands == LYING


@pytest.mark.parametrize("neighbours", [999, 1000, 10**9])
def test_all_others_or_more_neighbours_are_the_complete_graph(neighbours):
    chosen = SecureSumParameters.choose(1000, neighbours=neighbours)
    assert chosen == SecureSumParameters(1000, 900, 100, 100)
    assert chosen.complete
    assert not chosen.consistency


def test_the_exchange_raises_what_a_complete_graph_promises_to_survivors_less_colluders():
    without = SecureSumParameters.choose(50, threshold=40, tolerated_dropouts=5)
    signed = SecureSumParameters.choose(50, threshold=40, tolerated_dropouts=5, consistency=True)
    assert signed.complete
    assert (without.honest_in_any_sum, signed.honest_in_any_sum) == (34, 35)
    assert SecureSumParameters(50, 28, 22, 5, True).honest_in_any_sum == 23


@pytest.mark.parametrize("chosen", [SecureSumParameters.choose(n) for n in (5, 50, 1000)])
def test_no_two_lists_can_both_have_a_quorum(chosen):
    honest_in_both = 2 * chosen.quorum - chosen.holders - chosen.tolerated_colluders
    assert honest_in_both >= 1
    assert chosen.smallest_cohort >= chosen.quorum


def test_a_set_threshold_takes_the_smallest_graph_that_it_fits():
    assert SecureSumParameters.choose(1000, threshold=80).neighbours == 100
    assert SecureSumParameters.choose(1000, threshold=900).complete
    given = SecureSumParameters.choose(1000, threshold=97, neighbours=120)
    assert (given.neighbours, given.threshold) == (120, 97)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"neighbours": 40}, "secagg.neighbours 40 .* the smallest number that will is 96"),
        ({"neighbours": 97}, "an even number from 2 on; it is 97"),
        ({"neighbours": 0}, "an even number from 2 on; it is 0"),
        ({"neighbours": 950}, "the smallest number that will is 96"),
        ({"neighbours": 96, "threshold": 75}, "set it to 76, or auto"),
        ({"neighbours": 96, "tolerated_dropouts": 500}, "leave too few of 1000"),
        ({"neighbours": 96, "tolerated_colluders": 0}, "at least 1"),
        ({"neighbours": 96, "tolerated_dropouts": -1}, "at least 0"),
        ({"neighbours": 96, "tolerated_colluders": 600, "tolerated_dropouts": 10}, "is 248"),
    ],
)
def test_a_graph_that_will_not_do_is_refused_with_the_smallest_that_will(asked, words):
    with pytest.raises(CohortError, match=words) as refused:
        SecureSumParameters.choose(1000, **asked)
    assert "\n" not in str(refused.value)


def test_few_enterprises_have_no_smaller_graph_than_the_complete_one():
    with pytest.raises(CohortError, match="nor will any other below 8, the complete graph"):
        SecureSumParameters.choose(9, neighbours=4)


def test_where_no_smaller_graph_will_do_it_is_complete():
    assert SecureSumParameters.choose(200, tolerated_colluders=120).complete


@pytest.mark.parametrize("n", [101, 1000, 10_000])
def test_whoever_is_missing_at_the_join_counts_against_those_lost(n):
    whole = SecureSumParameters.choose(n)
    d = whole.tolerated_dropouts
    assert whole.joined(n) is whole
    for missing in (1, d // 2, d):
        fewer = whole.joined(n - missing)
        assert fewer == dataclasses.replace(
            whole, holders=n - missing, tolerated_dropouts=d - missing
        )
        assert fewer.smallest_cohort == whole.smallest_cohort
        assert fewer.honest_in_any_sum == whole.honest_in_any_sum
        assert fewer.log2_insecure <= -40
    with pytest.raises(CohortError, match=f"allows {d} to be missing"):
        whole.joined(n - d - 1)


def test_in_a_complete_graph_threshold_and_colluders_follow_the_roster():
    whole = SecureSumParameters.choose(50)
    fewer = whole.joined(47)
    assert (fewer.threshold, fewer.tolerated_dropouts, fewer.tolerated_colluders) == (45, 2, 5)
    assert fewer.complete
    with pytest.raises(CohortError, match="44 of the 50"):
        whole.joined(44)


def test_any_regular_parameters_that_are_accepted_keep_the_bounds():
    accepted = 0
    for n in (60, 120, 300):
        for c in (1, n // 10, n // 4):
            for d in (0, n // 20, n // 8):
                for k in range(10, n - 1, 14):
                    for t in range(k // 2, k + 2, 3):
                        for consistency in (True, False):
                            try:
                                one = SecureSumParameters(n, t, d, c, consistency, k)
                            except CohortError:
                                continue
                            accepted += 1
                            assert scipy_holds(n, d, c, k, t, one.withstands)
                            assert one.honest_in_any_sum == n - d - c >= 2
    assert accepted > 100


@pytest.mark.parametrize(
    ("n", "t", "d", "c", "word"),
    [
        (2, None, None, None, "at least 3"),
        (10, 5, 1, 1, "2 x threshold must exceed 11"),
        (10, 9, 3, 1, "lower one of the two"),
        (10, None, None, 0, "at least 1"),
        (10, 11, 0, 1, "at most the 10"),
        (3, 3, 0, 2, "wants at most 1 of 3"),
        (9, 9, 0, 8, "wants at most 7 of 9"),
        (6, 4, 2, 1, "a single honest enterprise"),
    ],
)
def test_parameters_that_break_the_rule_are_refused_with_the_rule(n, t, d, c, word):
    with pytest.raises(CohortError, match=word):
        SecureSumParameters.choose(n, t, d, c)


@pytest.mark.parametrize("n", [3, 4, 5, 10, 50, 100, 1000])
def test_parameters_chosen_by_default_obey_the_rule_and_leave_honest_enterprises(n):
    chosen = SecureSumParameters.choose(n)
    assert chosen.complete == (n <= 100)
    assert chosen.withstands == "lying coordinator"
    assert chosen.honest_in_any_sum >= 2
    if chosen.complete:
        assert 2 * chosen.threshold > n + chosen.tolerated_colluders
    else:  # the same but for 2^-40, the draw of the graph
        assert chosen.consistency
        assert chosen.log2_insecure <= -40


def test_honest_enterprises_in_any_sum_as_worked_out_for_fifty():
    # The coordinator's best cohort is one of 45, and those outside it are told of all 50.
    assert SecureSumParameters(50, 40, 5, 5).honest_in_any_sum == 34
    with pytest.raises(CohortError, match="a single honest enterprise"):
        SecureSumParameters(50, 28, 22, 5)
    assert SecureSumParameters(50, 28, 22, 5, consistency=True).honest_in_any_sum == 23
    assert SecureSumParameters(50, 45, 5, 5).honest_in_any_sum == 40
