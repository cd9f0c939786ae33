"""The search as a stage of a run."""

from pathlib import Path

import pytest
import torch
from digits import ONE_EPOCH, digits, pruned
from methods import add_method

from edcompress.core import registry
from edcompress.core.recipe.search import METHODS
from edcompress.data.batches import eval_batches
from edcompress.data.splits import open_splits
from edcompress.pruning.space.plan import Plan, plan_of
from edcompress.pruning.space.space import PruningSpace

RECORDED = '''"""Recorded: EDropout, which keeps what its final states are judged on."""

import torch

from edcompress.pruning.search.edropout_regime import EDropoutRegime
from edcompress.pruning.search.method import TrainingMethod

JUDGED = []


class Recording(EDropoutRegime):
    def finish(self, images, labels):
        best = super().finish(images, labels)
        state = next(state for state in self.snapshot()["states"] if not torch.equal(state, best))
        JUDGED.append((images, labels, state))
        return state  # which no other step of the run would choose


class Recorded(TrainingMethod):
    def make_regime(self, problem):
        return Recording(problem)


METHOD = Recorded()
'''


def test_the_final_state_is_judged_on_the_held_out_images(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_method("recorded", RECORDED, tmp_path, monkeypatch)
    recipe, run = digits("search.method=recorded", *ONE_EPOCH), tmp_path / "run"
    pruned(dense, run, recipe)
    ((images, labels, state),) = registry.load(METHODS, "recorded").JUDGED
    splits = open_splits(recipe.data, seed=recipe.seed)
    (held_out,) = eval_batches(splits.search, recipe.data)
    assert len(images) == len(splits.search) < recipe.data.eval_batch_size
    assert torch.equal(images, held_out[0])
    assert torch.equal(labels, held_out[1])
    space = PruningSpace.model_validate_json((run / "space.json").read_text())
    assert Plan.model_validate_json((run / "plan.json").read_text()) == plan_of(state, space)
