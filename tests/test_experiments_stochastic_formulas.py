"""T3 to T6 on a small CNN: sizes without the chance of replicas, warm squares, kept parts."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from matplotlib.figure import Figure

from pkbook import diffusion_limit as dl
from pkbook.lab.experiments import stochastic_formulas as sf
from pkbook.lab.experiments.machinery import claims

TINY = sf.Config(per_class=3, asked=2, batch=2, time=0.4, paths=4, replicas=3)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def tiny(kept):
    return sf.run(TINY, folder=kept)


def drawn(truth: torch.Tensor, chance: float, trials: int, replicas: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(trials, replicas, len(truth), generator=draw, dtype=torch.float64)
    return truth + chance * noise


def test_the_chance_of_replicas_does_not_add_to_the_size():
    """2000 trials of 8 replicas, seed 0; the bound is four standard errors of their mean."""
    truth = torch.tensor([0.6, -0.3, 0.2], dtype=torch.float64)
    trials = drawn(truth, 0.25, 2000, 8)
    squares = torch.tensor([sf.size_of(one)[0] ** 2 for one in trials])
    wanted = truth.square().mean()
    bound = 4 * squares.std() / 2000**0.5
    assert abs(squares.mean() - wanted) < bound
    plain = trials.mean(1).square().mean()  # with the chance of each: five percent too large
    assert plain - wanted > bound


def test_its_error_is_that_of_many_trials():
    truth = torch.tensor([1.0, -0.5], dtype=torch.float64)
    found = torch.tensor([sf.size_of(one) for one in drawn(truth, 0.3, 500, 10)])
    assert found[:, 1].mean().item() == pytest.approx(found[:, 0].std().item(), rel=0.1)


def test_warm_squares_are_the_mean_over_all_first_batches():
    task = sf.task_of(TINY)
    start = sf.Warm(task, 0.01, 2, beta=0.9, eps=0.1).start(3)["v"]
    g = task.sample_gradients(task.theta[None])[0]
    squares = [g[list(pair)].mean(0).square() for pair in combinations(range(len(g)), 2)]
    torch.testing.assert_close(start, torch.stack(squares).mean(0).repeat(3, 1))


def test_a_replica_is_the_mean_of_two_weak_errors_of_seeds_of_their_own(tiny):
    x, _ = sf.digits("test", TINY.asked)
    task = sf.task_of(TINY)
    limit = dl.Momentum(task, 0.2, 2, beta=1 - 2 * 0.2)
    found = []
    for seed in (4, 5):  # of the third replica
        one, two = (torch.Generator().manual_seed(seed) for _ in range(2))
        same = {"steps": 2, "paths": 4, "control": True}
        left = dl.discrete(limit, x, generator=one, **same)
        right = dl.diffusion(limit, x, generator=two, dt=0.1, **same)
        gap = left.outputs[-1] - right.predicted[-1]
        found.append(dl.weak.controlled(gap, [left.control, right.control]))
    torch.testing.assert_close(tiny.remainders["momentum"][1, 2], torch.stack(found).mean(0))


def test_kept_replicas_are_not_measured_again(kept, monkeypatch, tiny):
    monkeypatch.setattr(sf.dl, "weak_error", None)
    again = sf.run(TINY, folder=kept)
    for way, remainders in tiny.remainders.items():
        assert torch.equal(remainders, again.remainders[way])
        assert remainders.shape == (2, 3, 4)
        assert not torch.equal(remainders[:, 0], remainders[:, 1])


def known(order: float, chance: float = 0.01) -> sf.Result:
    """Remainders of a known order, as if measured."""
    config = replace(TINY, rates=(0.4, 0.2, 0.1), replicas=6)
    sizes = torch.tensor(config.rates, dtype=torch.float64) ** order
    noise = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = sizes[:, None, None] * (1 + chance * noise)
    return sf.Result(config, dict.fromkeys(sf.WAYS, one))


def test_findings_hold_the_order_of_every_theorem():
    found = sf.findings(known(0.75))
    assert list(found) == ["T3", "T4", "T5", "T6"]
    for id, settings in found.items():
        claims.finding(id, settings)
        for measured in settings.values():
            order = measured["order of the remainder"]
            assert order.mean == pytest.approx(0.75, abs=0.02)
            assert order.low < 0.75 < order.high
    assert sf.Result.rates(known(1), "Adam") == pytest.approx([0.04, 0.02, 0.01])


def test_a_remainder_lost_in_its_chance_has_no_order():
    with pytest.warns(RuntimeWarning, match="the remainder is not told from zero"):
        found = sf.findings(known(1.0, chance=30))
    assert claims.finding("T3", found["T3"]).verdict == "not reproduced"


def test_figures_are_drawn(tiny):
    assert isinstance(sf.figures(tiny)["remainders"], Figure)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"rates": (0.1,)}, "at least two"), ({"replicas": 2}, "replicas"), ({"time": 0}, "time")],
)
def test_bad_settings_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        sf.Config(**changes)
