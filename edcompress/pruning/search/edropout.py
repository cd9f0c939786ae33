"""The equations of EDropout: an energy over binary pruning states, and the evolution of a population of them.

H. Salehinejad and S. Valaee, "EDropout: Energy-Based Dropout and Pruning of Deep Neural Networks", IEEE Transactions on Neural
Networks and Learning Systems 33(10):5279-5292, 2022, arXiv:2006.04270. The evolution is binary differential evolution
(DE/rand/1/bin; R. Storn and K. Price, "Differential Evolution", Journal of Global Optimization 11:341-359, 1997).

Symbols: s in {0, 1}^D a state (1 = keep), S states in a population, z the logits, y the labels, L the energy loss (lower is better).
All functions are pure: randomness comes from the generator given, which lives on the CPU, as do the states.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from edcompress.core.recipe.search import Energy


def energy_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return L(s), a scalar: how far the best wrong class is above the right one, in logits [N, classes] for labels int64[N].

    L = mean_b [ E_y - min_{j != y} E_j ] with E_j = -z_j, which is mean_b [ max_{j != y} z_j - z_y ].
    It is +inf where a logit is not finite.
    """
    z = logits.float()
    right = z.gather(1, labels.unsqueeze(1)).squeeze(1)
    wrong = z.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
    return (wrong - right).mean().masked_fill(~z.isfinite().all(), torch.inf)


def normalised_energy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return L(s) over the standard deviation of all logits of the batch, a scalar without the scale of the logits; +inf as in L."""
    return energy_loss(logits, labels) / logits.float().std().clamp_min(1e-12).nan_to_num(1.0)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the training loss as an energy, a scalar; +inf where a logit is not finite."""
    return F.cross_entropy(logits.float(), labels).masked_fill(~logits.isfinite().all(), torch.inf)


ENERGIES: dict[Energy, Callable[[Tensor, Tensor], Tensor]] = {
    "margin": energy_loss,
    "normalised": normalised_energy,
    "cross_entropy": cross_entropy,
}
"""The energies by the names that recipes use; `margin` is the published one."""


AGREED = 0.005
"""Diversity at which a population counts as one state: two members differ in one gene of 200, too little for their energies to show."""


def bernoulli_states(S: int, D: int, p: float, generator: Generator) -> Tensor:
    """Return the first population, bool[S, D]: s_{i,d} ~ Bernoulli(p)."""
    return torch.rand(S, D, generator=generator) < p


def distinct_parents(S: int, generator: Generator) -> Tensor:
    """Return int64[3, S]: for each i three different members r1, r2, r3, none of them i; S is at least 4."""
    order = torch.rand(S, S, generator=generator)
    order.fill_diagonal_(torch.inf)
    return order.argsort(dim=1)[:, :3].T


def mutate(s: Tensor, parents: Tensor, F: float, generator: Generator) -> Tensor:
    """Return mutants v, bool[S, D], of states s: v_d = 1 - s_{r1,d} if s_{r2,d} != s_{r3,d} and u_d < F, else s_{r1,d}."""
    r1, r2, r3 = parents
    u = torch.rand(s.shape, generator=generator)
    return s[r1] ^ ((s[r2] ^ s[r3]) & (u < F))


def mutate_widths(w: Tensor, parents: Tensor, factor: float) -> Tensor:
    """Return mutants v, float[S, G], of real genes w: v = w_{r1} + factor (w_{r2} - w_{r3})."""
    r1, r2, r3 = parents
    return w[r1] + factor * (w[r2] - w[r3])


def crossover(x: Tensor, v: Tensor, CR: float, generator: Generator) -> Tensor:
    """Return children c, [S, D]: c_d = v_d if u'_d < CR else x_d (binomial; x are the parents, v their mutants)."""
    return torch.where(torch.rand(x.shape, generator=generator) < CR, v, x)


def selection(parent_energies: Tensor, child_energies: Tensor) -> Tensor:
    """Return bool[S]: where the child replaces its parent, L(c) <= L(s), one to one and greedy."""
    return child_energies <= parent_energies


def diversity(s: Tensor) -> float:
    """Return the mean share of genes in which two members of bool[S, D] differ, in [0, 1]; 0 for a population of one state."""
    S, D = s.shape
    ones = s.sum(0, dtype=torch.float64)
    differing_pairs = (ones * (S - ones)).sum().item()
    return differing_pairs / (D * S * (S - 1) / 2) if S > 1 and D > 0 else 0.0


def converged(s: Tensor) -> bool:
    """Return whether the members of bool[S, D] are one state, or nearly (see `AGREED`)."""
    return diversity(s) <= AGREED
