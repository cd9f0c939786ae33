import math

import pytest
import torch
from torch import Generator, Tensor

from edcompress.pruning.search.edropout import (
    ENERGIES,
    bernoulli_states,
    converged,
    crossover,
    distinct_parents,
    diversity,
    energy_loss,
    mutate,
    mutate_widths,
    normalised_energy,
    selection,
)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def bits(*rows: str) -> Tensor:
    return torch.tensor([[digit == "1" for digit in row] for row in rows])


@pytest.mark.parametrize(
    ("logits", "labels", "energy"),
    [
        # best wrong class minus the right one, averaged: (3 - 1 + 0 - 5) / 2
        ([[1.0, 3.0, 2.0], [5.0, 0.0, -1.0]], [0, 0], -1.5),
        ([[2.0, -1.0]], [0], -3.0),  # two classes: the other one
        ([[2.0, -1.0]], [1], 3.0),
        ([[4.0, 4.0]], [1], 0.0),
        ([[-20000.0, -30000.0]], [0], -10000.0),  # a wrong class far below zero is still the best wrong one
    ],
)
def test_energy_by_hand(logits: list[list[float]], labels: list[int], energy: float) -> None:
    assert energy_loss(torch.tensor(logits), torch.tensor(labels)).item() == energy


def test_the_right_class_is_excluded_in_bf16_too() -> None:
    # 30080 is a bf16 number; less 10000 it would still be the largest, and pass for the best wrong class
    logits = torch.tensor([[30080.0, 2.0, 1.0]], dtype=torch.bfloat16)
    energy = energy_loss(logits, torch.tensor([0]))
    assert energy.dtype == torch.float32
    assert energy.item() == 2.0 - 30080.0


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_broken_logit_is_the_worst_energy(broken: float, place: int) -> None:
    logits = torch.zeros(2, 3)
    logits[1, place] = broken
    assert energy_loss(logits, torch.tensor([0, 1])).item() == math.inf


@pytest.mark.parametrize("name", ENERGIES)
def test_every_energy_prefers_the_right_class_and_is_infinite_for_broken_logits(name: str) -> None:
    energy, labels = ENERGIES[name], torch.tensor([0, 1])
    right, unsure = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.9], [0.5, 1.0, 0.9]])
    assert energy(right, labels) < energy(unsure, labels) < energy(-right, labels)
    for broken in (math.nan, math.inf, -math.inf):
        logits = right.clone()
        logits[0, 0] = broken
        assert energy(logits, labels).item() == math.inf


def test_the_normalised_energy_has_no_scale_and_cross_entropy_is_the_training_loss() -> None:
    logits, labels = torch.randn(8, 5, generator=Generator().manual_seed(0)), torch.arange(8) % 5
    torch.testing.assert_close(normalised_energy(10 * logits, labels), normalised_energy(logits, labels))
    torch.testing.assert_close(normalised_energy(logits, labels), energy_loss(logits, labels) / logits.std())
    assert ENERGIES["cross_entropy"](logits, labels) == torch.nn.functional.cross_entropy(logits, labels)


def test_bernoulli_states_keep_about_p() -> None:
    states = bernoulli_states(8, 4000, 0.3, seeded())
    assert states.shape == (8, 4000)
    assert states.dtype == torch.bool
    # 32000 draws: standard deviation sqrt(0.21 / 32000) = 0.0026
    assert states.float().mean().item() == pytest.approx(0.3, abs=0.013)
    assert bernoulli_states(2, 50, 1.0, seeded()).all()
    assert not torch.equal(states, bernoulli_states(8, 4000, 0.3, seeded(1)))


@pytest.mark.parametrize("S", [4, 5, 8, 33])
def test_parents_are_three_different_others(S: int) -> None:
    for seed in range(20):
        parents = distinct_parents(S, seeded(seed))
        assert parents.shape == (3, S)
        for i in range(S):
            assert len({i, *parents[:, i].tolist()}) == 4
            assert 0 <= parents[:, i].min() <= parents[:, i].max() < S


def test_every_other_member_becomes_a_parent() -> None:
    seen = torch.cat([distinct_parents(5, seeded(seed)) for seed in range(60)])
    for i in range(5):
        assert set(seen[:, i].tolist()) == set(range(5)) - {i}


PARENTS = torch.tensor([[1], [2], [3]])


def test_mutation_flips_where_the_parents_differ() -> None:
    s = bits("0000", "0011", "0101", "0110")
    # r1 = 0011; r2 = 0101 and r3 = 0110 differ at the last two places: both flip with F = 1
    parents = PARENTS.expand(3, 4)
    assert torch.equal(mutate(s, parents, 1.0, seeded())[0], bits("0000")[0])
    assert torch.equal(mutate(s, parents, 0.0, seeded())[0], bits("0011")[0])


def test_mutation_flips_a_share_of_the_differing_genes() -> None:
    D = 20_000
    s = torch.zeros(4, D, dtype=torch.bool)
    s[2, : D // 2] = True  # r2 and r3 differ in the first half
    v = mutate(s, PARENTS.expand(3, 4), 0.9, seeded())
    assert not v[:, D // 2 :].any()
    # 40000 genes: standard deviation sqrt(0.09 / 40000) = 0.0015
    assert v[:, : D // 2].float().mean().item() == pytest.approx(0.9, abs=0.008)


def test_a_population_of_one_state_cannot_mutate() -> None:
    s = bits("0110101").expand(6, 7)
    v = mutate(s, distinct_parents(6, seeded()), 1.0, seeded())
    assert torch.equal(v, s)
    assert torch.equal(crossover(s, v, 0.9, seeded()), s)


def test_width_mutation_by_hand() -> None:
    w = torch.tensor([[0.0, 0.0], [0.5, 0.2], [0.9, 0.4], [0.4, 0.6]])
    v = mutate_widths(w, PARENTS.expand(3, 4), 0.7)
    # 0.5 + 0.7 (0.9 - 0.4) and 0.2 + 0.7 (0.4 - 0.6)
    torch.testing.assert_close(v, torch.tensor([[0.85, 0.06]]).expand(4, 2))


def test_crossover_takes_all_or_nothing_at_its_ends() -> None:
    x, v = bits("0101", "0011"), bits("1100", "1111")
    assert torch.equal(crossover(x, v, 0.0, seeded()), x)
    assert torch.equal(crossover(x, v, 1.0, seeded()), v)


def test_crossover_takes_a_share_of_the_mutant() -> None:
    x, v = torch.zeros(4, 10_000), torch.ones(4, 10_000)
    # 40000 genes: standard deviation 0.002
    assert crossover(x, v, 0.2, seeded()).mean().item() == pytest.approx(0.2, abs=0.01)


def test_selection_is_one_to_one_and_ties_go_to_the_child() -> None:
    parents = torch.tensor([1.0, 2.0, 3.0, math.inf, math.inf, 0.0])
    children = torch.tensor([1.0, 2.5, 2.5, math.inf, 1.0, math.inf])
    assert selection(parents, children).tolist() == [True, False, True, True, True, False]


def test_diversity_by_hand() -> None:
    # pairs (0, 1), (0, 2), (1, 2) differ in 1, 3 and 2 of 4 genes: 6 of 12
    assert diversity(bits("0000", "0001", "0111")) == 0.5
    assert diversity(bits("01", "10")) == 1.0
    assert diversity(bits("01", "01")) == 0.0
    assert diversity(bits("01")) == 0.0


def test_converged_means_one_state_or_nearly() -> None:
    assert converged(bits("011", "011"))
    assert not converged(bits("011", "011", "010"))
    one = "0" * 400  # of three members two pairs differ in k genes of 400: k / 600
    assert converged(bits(one, one, "111" + one[3:]))
    assert not converged(bits(one, one, "1111" + one[4:]))


def test_all_randomness_comes_from_the_generator() -> None:
    before = torch.get_rng_state()
    s = bernoulli_states(6, 30, 0.5, seeded())
    once = crossover(s, mutate(s, distinct_parents(6, seeded(1)), 0.9, seeded(2)), 0.9, seeded(3))
    again = crossover(s, mutate(s, distinct_parents(6, seeded(1)), 0.9, seeded(2)), 0.9, seeded(3))
    assert torch.equal(once, again)
    assert torch.equal(torch.get_rng_state(), before)
