import copy

import pytest
import torch
from torch import Generator, Tensor, nn
from zoo import ZOO, images, randomised

from edcompress.core.recipe.search import Search
from edcompress.core.recipe.target import Constraints, Target
from edcompress.pruning.cost.budget import FeasibleStates
from edcompress.pruning.cost.cost_model import CostModel
from edcompress.pruning.search.edropout_regime import EDropoutRegime
from edcompress.pruning.search.importance import channel_ranks, magnitude
from edcompress.pruning.search.method import Figures, SearchProblem
from edcompress.pruning.search.scoring import score_states
from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.surgery.sliced_forward import SlicedNetwork
from edcompress.pruning.tracing.tracing import trace_space
from edcompress.training.precision import Precision

FP32 = Precision("fp32", torch.device("cpu"))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def make_regime(
    network: nn.Module, target: Target | None, *, example: Tensor | None = None, seed: int = 0, **search: object
) -> tuple[EDropoutRegime, PruningSpace, list[Figures]]:
    """Return a search over a network on the CPU, its space, and the list that its figures are logged to."""
    example = images(2) if example is None else example
    space, log = trace_space(network, example), list[Figures]()
    limits = Constraints(round_to=1, min_ratio=0.0)
    feasible = FeasibleStates(space, CostModel(space, network, example), target, limits)
    settings = Search.model_validate({"evolve_every": 1, **search})
    problem = SearchProblem(network, space, feasible, settings.for_batches_of(8), FP32, seed, log=log.append)
    return EDropoutRegime(problem), space, log


def run(regime: EDropoutRegime, first: int, last: int, of: int = 10) -> None:
    for step in range(first, last):
        regime.prepare(images(8, seed=step), LABELS, step / of)


@pytest.mark.parametrize("parent_energies", ["rescored", "stored"])
@pytest.mark.parametrize("genes", ["channels", "widths"])
def test_a_restored_search_continues_as_if_it_had_not_stopped(genes: str, parent_energies: str) -> None:
    target, search = Target(macs=0.6), {"genes": genes, "parent_energies": parent_energies}
    network = randomised(ZOO["residual"].network())
    whole, _, log = make_regime(network, target, **search)
    run(whole, 0, 8)
    first, _, _ = make_regime(network, target, **search)
    run(first, 0, 4)
    saved = copy.deepcopy(first.snapshot())
    run(first, 4, 6)  # what happens after the snapshot does not matter
    second, _, tail = make_regime(network, target, seed=99, **search)
    second.restore(saved)
    run(second, 4, 8)
    assert second.generation == whole.generation == 8
    assert torch.equal(second.state, whole.state)
    assert torch.equal(second.snapshot()["states"], whole.snapshot()["states"])
    assert torch.equal(second.snapshot()["shares"], whole.snapshot()["shares"])
    assert tail == log[4:]
    energies, wanted = second.snapshot()["energies"], whole.snapshot()["energies"]
    assert torch.equal(energies, wanted)


def test_a_snapshot_of_an_earlier_version_is_restored() -> None:
    network = randomised(ZOO["residual"].network())
    search: dict[str, object] = {"genes": "channels", "parent_energies": "stored", "anneal": 0.0}
    first, _, log = make_regime(network, Target(macs=0.6), **search)
    run(first, 0, 2)
    saved = copy.deepcopy(first.snapshot())
    saved["in_force"] = saved.pop("budget")  # as the key was called
    second, _, tail = make_regime(network, Target(macs=0.6), seed=99, **search)
    second.restore(saved)
    run(first, 2, 4)
    run(second, 2, 4)
    assert tail == log[2:]


def test_the_budget_tightens_along_a_cubic() -> None:
    network = randomised(ZOO["residual"].network())
    regime, _, log = make_regime(network, Target(macs=0.5), anneal=0.4)
    for progress in (0.0, 0.1, 0.2, 0.3, 0.4, 0.9):
        regime.prepare(images(8), LABELS, progress)
    # one halving takes 0.4 of the search: 0.5 + 0.5 (1 - progress / 0.4)^3, with 1, 3/4, 1/2, 1/4 and 0 left
    wanted = [1.0, 0.5 + 0.5 * 27 / 64, 0.5625, 0.5078125, 0.5, 0.5]
    assert [line["budget"] for line in log] == pytest.approx(wanted, abs=1e-12)
    assert all(line["share_best"] <= line["budget"] + 1e-12 for line in log)  # type: ignore[operator]


def test_without_annealing_the_target_holds_from_the_start() -> None:
    regime, space, log = make_regime(randomised(ZOO["residual"].network()), Target(channels=0.5), anneal=0.0)
    assert int(regime.state.sum()) == space.genes // 2  # nine channels: four
    run(regime, 0, 2)
    assert [line["budget"] for line in log] == [0.5, 0.5]
    regime, _, log = make_regime(randomised(ZOO["residual"].network()), None)
    run(regime, 0, 1)
    assert log[0]["budget"] is None


def test_a_generation_runs_every_few_steps_on_a_part_of_the_batch() -> None:
    network = randomised(ZOO["chain"].network())
    regime, _, log = make_regime(network, None, evolve_every=3, score_batch=4)
    seen: list[int] = []
    handle = network.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    run(regime, 0, 7)
    handle.remove()
    assert [line["step"] for line in log] == [0, 3, 6]
    assert [line["generation"] for line in log] == [1, 2, 3]
    assert set(seen) == {4}
    assert regime.figures["generation"] == 3


@pytest.mark.parametrize(
    ("batch", "steps", "scored"),
    [(1024, 1, 32), (256, 2, 32), (128, 4, 32), (100, 5, 32), (32, 16, 32), (16, 16, 16)],
)
def test_without_evolve_every_scoring_takes_the_same_share_of_the_work(batch: int, steps: int, scored: int) -> None:
    search = Search()
    assert (search.for_batches_of(batch).period, search.scored(batch)) == (steps, scored)
    assert Search(evolve_every=3).for_batches_of(batch).period == 3
    assert Search(score_batch=None).scored(batch) == batch


def test_small_batches_score_states_whole_and_rarely() -> None:
    network = randomised(ZOO["chain"].network())
    regime, _, log = make_regime(network, None, evolve_every=None)
    seen: list[int] = []
    handle = network.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    run(regime, 0, 17)
    handle.remove()
    assert [line["step"] for line in log] == [0, 16]
    assert set(seen) == {8}


def scored(network: nn.Module, **search: object) -> tuple[list[int], EDropoutRegime, list[Figures]]:
    """Return the forward passes of each of five generations of random states at the final budget, the search, and its figures."""
    regime, _, log = make_regime(
        network, Target(channels=0.6), genes="channels", init="bernoulli", anneal=0.0, **search
    )
    seen, passes = [0], []
    handle = network.register_forward_hook(lambda *_: seen.append(seen.pop() + 1))
    for step in range(5):
        before = seen[0]
        run(regime, step, step + 1)
        passes.append(seen[0] - before)
    handle.remove()
    return passes, regime, log


def test_stored_parent_energies_halve_the_scoring() -> None:
    network = randomised(ZOO["concat"].network())
    both, _, _ = scored(network, population=4)
    children, _, _ = scored(network, population=4, parent_energies="stored")
    assert children[0] == both[0]  # nothing is stored before the first generation
    assert all(passes <= 4 for passes in children[1:])
    assert max(both[1:]) > 4


def test_a_stored_energy_stays_until_a_child_does_better() -> None:
    regime, _, log = make_regime(
        randomised(ZOO["concat"].network()), None, genes="channels", init="bernoulli", parent_energies="stored"
    )
    run(regime, 0, 1)
    before = regime.snapshot()
    run(regime, 1, 2)  # other images, and a parent that stays keeps the energy it had on the first ones
    after = regime.snapshot()
    stayed = (before["states"] == after["states"]).all(1)
    assert stayed.any()
    assert torch.equal(after["energies"][stayed].minimum(before["energies"][stayed]), after["energies"][stayed])
    assert (after["energies"] <= before["energies"]).all()
    assert log[-1]["energy_best"] == after["energies"].min().item()


def test_stored_energies_are_rescored_when_the_budget_changes() -> None:
    target, search = Target(channels=0.5), {"genes": "channels", "anneal": 1.0}
    network = randomised(ZOO["residual"].network())
    stored, _, log = make_regime(network, target, parent_energies="stored", **search)
    rescored, _, wanted = make_regime(network, target, **search)
    run(stored, 0, 6)
    run(rescored, 0, 6)  # the budget tightens from step to step
    assert log == wanted


def test_no_member_is_worse_than_its_parent_on_the_batch_that_scored_them() -> None:
    network = randomised(ZOO["concat"].network())
    regime, space, log = make_regime(network, None, genes="channels", init="bernoulli", score_batch=None)
    sliced, accepted = SlicedNetwork(space, network), 0
    for step in range(6):
        batch = images(8, seed=step)
        before = score_states(sliced, regime.snapshot()["states"], batch, LABELS, FP32)
        regime.prepare(batch, LABELS, 0.0)
        after = score_states(sliced, regime.snapshot()["states"], batch, LABELS, FP32)
        assert (after <= before).all()
        assert log[-1]["energy_best"] == after.min().item()
        assert score_states(sliced, regime.state.unsqueeze(0), batch, LABELS, FP32) == after.min()
        accepted += int(log[-1]["accepted"] or 0)
    assert accepted > 0


def test_scoring_changes_neither_statistics_nor_modes_nor_weights() -> None:
    network = randomised(ZOO["residual"].network()).train()
    regime, _, _ = make_regime(network, Target(macs=0.5))
    before, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    run(regime, 0, 3)
    regime.finish(images(8), LABELS)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes
    assert all(p.grad is None for p in network.parameters())


def test_scores_use_the_statistics_of_the_batch() -> None:
    network = randomised(ZOO["chain"].network())
    space = trace_space(network, images(2))
    sliced, batch = SlicedNetwork(space, network), images(8)
    states = torch.stack([space.full_state(), space.full_state()])
    energies = score_states(sliced, states, batch, LABELS, FP32)
    logits = copy.deepcopy(network).train()(batch)  # no dropout: train mode is batch statistics
    right = logits.gather(1, LABELS[:, None])[:, 0]
    wrong = torch.stack([row[[c for c in range(3) if c != y]].max() for row, y in zip(logits, LABELS, strict=True)])
    torch.testing.assert_close(energies, (wrong - right).mean().detach().expand(2))


def test_the_search_trains_and_guards_its_best_state() -> None:
    network = randomised(ZOO["chain"].network())
    regime, space, _ = make_regime(network, Target(channels=0.5), anneal=0.0)
    wanted = SlicedNetwork(space, network).call(regime.state, images())
    assert torch.equal(regime.forward(images()), wanted)
    before = copy.deepcopy(network.get_parameter("conv1.weight"))
    with regime.guard(), torch.no_grad():
        network.get_parameter("conv1.weight").add_(1.0)
    kept = regime.state[:4]
    assert torch.equal(network.get_parameter("conv1.weight")[~kept], before[~kept])
    assert torch.equal(network.get_parameter("conv1.weight")[kept], before[kept] + 1)


def test_the_final_state_is_feasible_and_the_best_member_on_held_out_images() -> None:
    network = randomised(ZOO["residual"].network())
    regime, space, _ = make_regime(network, Target(macs=0.5))
    run(regime, 0, 3)  # of ten: the budget is still wide
    costs = CostModel(space, network, images(2))
    saved, best = regime.snapshot(), set()
    for seed in range(50, 60):
        regime.restore(saved)
        state = regime.finish(images(8, seed=seed), LABELS)
        widths = torch.tensor([state[part].sum() for _, part in space.slices()])
        assert costs.share("macs", widths).item() <= 0.5
        states = regime.snapshot()["states"]
        energies = score_states(SlicedNetwork(space, network), states, images(8, seed=seed), LABELS, FP32)
        assert torch.equal(state, states[energies.argmin()])
        best.add(tuple(state.tolist()))
    assert len(best) > 1


def with_equal_members(regime: EDropoutRegime) -> EDropoutRegime:
    """Return the search with a population of one state that wishes for half of every group."""
    saved = regime.snapshot()
    states, shares = saved["states"], saved["shares"]
    one = states[:1].expand_as(states)
    regime.restore({**saved, "states": one, "shares": torch.full_like(shares, 0.5)})
    return regime


def parted(progress: float, **search: object) -> float:
    """Return the standard deviation of the logarithms of the shares after one generation of equal members."""
    regime, _, _ = make_regime(randomised(ZOO["residual"].network()), Target(macs=0.5), **search)
    with_equal_members(regime).prepare(images(8), LABELS, progress)
    return regime.snapshot()["shares"].log().std().item()


def test_the_noise_on_widths_decays_until_the_target_is_reached() -> None:
    search: dict[str, object] = {"anneal": 0.4, "width_noise": 0.2, "population": 128}
    # nothing is removed in the first generation: every child is as good as its parent, and replaces it
    assert parted(0.0, **search) == pytest.approx(0.2, rel=0.15)
    assert 0 < parted(0.3, **search) < 0.1  # a quarter of the tightening is left
    assert parted(0.4, **search) == parted(0.9, **search) == 0.0


def keeps_the_largest(states: Tensor, space: PruningSpace, network: nn.Module) -> bool:
    """Return whether every state bool[S, D] keeps the channels of the largest weights in each group, as the weights are now."""
    ranks = channel_ranks(space, magnitude(space, network))
    kept, dropped = ranks.where(states, 2.0), ranks.where(~states, -1.0)
    return all((kept[:, part].amin(1) > dropped[:, part].amax(1)).all() for _, part in space.slices())


def test_channels_are_ranked_again_in_every_generation_and_at_the_end() -> None:
    network = randomised(ZOO["residual"].network())
    regime, space, _ = make_regime(network, Target(macs=0.5), anneal=0.0)
    found = [regime.snapshot()["states"]]
    assert keeps_the_largest(found[0], space, network)
    for step in range(2):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(parameter.flip(0))  # the channels change places
        assert not keeps_the_largest(found[-1], space, network)
        run(regime, step, step + 1)
        found.append(regime.snapshot()["states"])
        assert keeps_the_largest(found[-1], space, network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.flip(0))
    regime.finish(images(8), LABELS)
    assert keeps_the_largest(regime.snapshot()["states"], space, network)


@pytest.mark.parametrize(("progress", "settled"), [(0.0, False), (0.3, False), (0.4, True), (0.9, True)])
def test_a_search_settles_under_the_target_and_not_before(progress: float, settled: bool) -> None:
    network = randomised(ZOO["residual"].network())
    regime, _, log = make_regime(network, Target(macs=0.5), anneal=0.4, width_noise=0.0)
    assert not with_equal_members(regime).settled  # nothing has evolved yet
    regime.prepare(images(8), LABELS, progress)
    assert log[-1]["converged"]
    assert regime.settled is settled


def test_a_search_of_several_states_has_not_settled() -> None:
    regime, _, log = make_regime(randomised(ZOO["residual"].network()), Target(macs=0.5), anneal=0.0)
    run(regime, 0, 1)
    assert not log[-1]["converged"]
    assert not regime.settled


class NoisyLogits(nn.Module):
    """32 channels, each a copy of one input; the even ones vote for the right class, the odd ones put noise on the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.copies, self.votes = nn.Linear(32, 32, bias=False), nn.Linear(32, 2, bias=False)
        nn.init.eye_(self.copies.weight)
        with torch.no_grad():
            self.votes.weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 32))

    def forward(self, x: Tensor) -> Tensor:
        votes: Tensor = self.votes(self.copies(x))
        return votes


def noisy_batch(seed: int) -> tuple[Tensor, Tensor]:
    """Labels of two classes and 32 inputs: the even ones are -1 or 1 as the class, the odd ones three times normal noise."""
    generator = Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (64,), generator=generator)
    x = 3 * torch.randn(64, 32, generator=generator)
    x[:, ::2] = (2 * labels - 1).float().unsqueeze(1)
    return x, labels


def test_evolution_from_random_states_finds_the_channels_that_help() -> None:
    network = NoisyLogits()
    example, _ = noisy_batch(0)
    regime, space, log = make_regime(network, None, example=example, genes="channels", init="bernoulli")
    for step in range(120):
        regime.prepare(*noisy_batch(step + 1), progress=step / 120)
    x, labels = noisy_batch(1000)
    found = regime.finish(x, labels)
    random = torch.rand(200, space.genes, generator=Generator().manual_seed(7)) < 0.5
    sliced = SlicedNetwork(space, network)
    energy = score_states(sliced, found.unsqueeze(0), x, labels, FP32).item()
    chance = score_states(sliced, random, x, labels, FP32)
    # by hand: k helpers lower the energy by 2 k, so a random state is near -16 and the best at -32
    assert chance.mean().item() == pytest.approx(-16, abs=2)
    assert energy < chance.mean().item() - 2 * chance.std().item()
    assert int(found[::2].sum()) > 8 + 3
    assert log[-1]["diversity"] < log[0]["diversity"]  # type: ignore[operator]
