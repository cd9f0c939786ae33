import pytest
import torch

from edcompress.core.errors import BudgetError
from edcompress.pruning.cost.gene_order import GeneOrder, key_bits


def test_genes_are_sorted_within_their_groups_and_ties_stay_in_order() -> None:
    order = GeneOrder(torch.tensor([0, 0, 0, 1, 1, 1]), (3, 3))
    priority = torch.tensor([[0.1, 0.9, 0.5, 0.2, 0.2, 0.8], [0.0, 0.0, 1.0, 0.3, 0.4, 0.5]])
    assert order.by_priority(priority).tolist() == [[1, 2, 0, 5, 3, 4], [2, 0, 1, 5, 4, 3]]


@pytest.mark.parametrize(
    ("genes", "groups", "widest", "bits"),
    [
        (6_000, 60, 512, (30, 20)),
        (18_001, 9_001, 2, (29, 20)),  # groups take 14 bits of 63
        (1 << 24, 1 << 20, 64, (17, 25)),
    ],
)
def test_group_priority_and_gene_share_the_bits_of_a_key(
    genes: int, groups: int, widest: int, bits: tuple[int, int]
) -> None:
    assert key_bits(genes, groups, widest) == bits
    assert sum(bits) + groups.bit_length() <= 63


def test_genes_that_do_not_fit_a_key_are_refused() -> None:
    message = (
        r"4294967296 channels in 1048576 groups, up to 4096 in one, are too many to rank; lock some with constraints"
    )
    with pytest.raises(BudgetError, match=message):
        key_bits(1 << 32, 1 << 20, 1 << 12)
    assert key_bits(1 << 32, 1 << 20, 1 << 8) == (9, 33)
