"""An own optimizer, registered: its runs are taken apart as exactly as those of torch.optim."""

from dataclasses import replace

import optimizer_oracle as oracle
import pytest
import torch
from small_problem import problem, smooth

import pkbook as pk
from pkbook.runs import Coefficients, register
from pkbook.runs.optimizers import rules


class Mean(torch.optim.Optimizer):
    """Lion without its sign: along a mean of the new gradient and the memory before it."""

    def __init__(self, params, lr, mix=0.7, beta=0.9, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "mix": mix, "beta": beta, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("mean", torch.zeros_like(p))
                along = group["mix"] * m + (1 - group["mix"]) * p.grad
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(along, alpha=-group["lr"])
                m.lerp_(p.grad, 1 - group["beta"])


def read_mean(settings, state, fresh):
    ratio, rate = settings["mix"] / settings["beta"], settings["lr"]
    return Coefficients(
        keep=settings["beta"], take=1 - settings["beta"], held=rate * ratio,
        direct=rate * (1 - ratio), shrink=rate * settings["weight_decay"],
    )  # fmt: skip


class Scaled(torch.optim.Optimizer):
    """Gradient descent with a scale for each entry, without a memory."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if "scale" not in self.state[p]:
                    scale = torch.linspace(0.5, 2, p.numel(), dtype=p.dtype)
                    self.state[p]["scale"] = scale.view_as(p)
                p.addcmul_(self.state[p]["scale"], p.grad, value=-group["lr"])


def read_scaled(settings, state, fresh):
    return Coefficients(direct=settings["lr"], outer=state["scale"])


class MeanForward(oracle.Rule):
    """The same, each sample carrying its own memory forward."""

    def split(self, g, gd):
        mix = self.get("mix", 0.7)
        found = mix * self.own + (1 - mix) * g, mix * self.pull + (1 - mix) * gd
        self.remember(g, gd, 0.9, 1 - 0.9)
        return found


class ScaledForward(oracle.Rule):
    def split(self, g, gd):
        sizes = [p.numel() for p in smooth().parameters()]
        scale = torch.cat([torch.linspace(0.5, 2, n, dtype=g.dtype) for n in sizes])
        return g * scale, gd * scale


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(rules, "RULES", dict(rules.RULES))
    monkeypatch.setattr(oracle, "RULES", {"Mean": MeanForward, "Scaled": ScaledForward})
    register(Mean, read_mean, memory="mean")
    register(Scaled, read_scaled)


def batches():
    return pk.batches(15, size=5, steps=20, seed=2)


def recorded(optimizer, model, data, **options):
    run = pk.Trajectory(model, pk.losses.squared, optimizer, data, every=7, **options)
    for batch in batches():
        run.step(batch)
    return run


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Mean, {"lr": 0.1}),
        (Mean, {"lr": 0.1, "weight_decay": 0.2}),
        (Scaled, {"lr": 0.05}),
    ],
)
def test_contributions_add_up_and_are_those_carried_forward(kind, options):
    data, query = problem()
    decoupled = {"decoupled_weight_decay": True} if "weight_decay" in options else {}
    theirs, decayed, end = oracle.forward_contributions(
        kind.__name__, options | decoupled, smooth(), pk.losses.squared, data, list(batches()),
        query,
    )  # fmt: skip
    model = smooth()
    told = recorded(kind(model.parameters(), **options), model, data).interpolate(
        query, nodes=6, tolerance=1e-11
    )
    torch.testing.assert_close(told.final, end(query).detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(told.contributions, theirs, rtol=1e-7, atol=1e-9)
    own = told.other.get("weight decay", torch.zeros_like(decayed))
    torch.testing.assert_close(own, decayed, rtol=1e-7, atol=1e-9)
    assert told.completeness.max() < 1e-10


def test_a_registered_run_is_kept_and_opened(tmp_path):
    data, query = problem()
    model = smooth()
    with recorded(Mean(model.parameters(), 0.1), model, data, folder=tmp_path / "run") as run:
        told = run.interpolate(query)
    fresh = smooth()
    optimizer = Mean(fresh.parameters(), 0.1)
    with pk.Trajectory.open(tmp_path / "run", fresh, pk.losses.squared, optimizer, data) as again:
        assert again.verify() == 0
        assert torch.equal(again.interpolate(query).contributions, told.contributions)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"direct": 0.1}, "the step of"),
        ({"keep": 0.8}, "the memory of"),
        ({"take": 0.2}, "the memory of"),
        ({"shrink": 0.01}, "the step of"),
    ],
)
def test_a_rule_that_is_wrong_is_told_at_the_first_steps(wrong, what):
    """Each coefficient but one is right; what the optimizer did is at hand."""
    register(Mean, lambda *a: replace(read_mean(*a), **wrong), memory="mean")
    data, _ = problem()
    model = smooth()
    with pytest.raises(ValueError, match=rf"rule registered for Mean.*{what} 'fc1\.weight'"):
        recorded(Mean(model.parameters(), 0.1), model, data)


def test_what_is_no_rule_is_refused():
    data, _ = problem()
    model = smooth()
    with pytest.raises(TypeError, match="kind must be a class of optimizers"):
        register(Mean(model.parameters(), 0.1), read_mean)
    with pytest.raises(TypeError, match="rule must be a function"):
        register(Mean, "mean")
    with pytest.raises(ValueError, match="SGD, whose rule is known; write a subclass"):
        register(torch.optim.SGD, read_mean)
    register(Mean, lambda *a: {"direct": 0.1}, memory="mean")
    with pytest.raises(TypeError, match=r"must return pkbook\.runs\.Coefficients, got dict"):
        recorded(Mean(model.parameters(), 0.1), model, data)

    class Unknown(Mean):
        pass

    with pytest.raises(TypeError, match=r"Unknown cannot be taken apart.*pkbook\.runs\.register"):
        recorded(Unknown(model.parameters(), 0.1), model, data)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (lambda state, p: state[p].update(step=1), r"keeps 'step' of 'fc1\.weight' as a int"),
        (lambda state, p: state.update(step=torch.ones(1)), "keeps state of 'step', which is no"),
    ],
)
def test_a_state_that_cannot_be_recorded_is_told_at_the_first_step(keep, message):
    class Counting(Scaled):
        def step(self, closure=None):
            super().step(closure)
            keep(self.state, self.param_groups[0]["params"][0])

    register(Counting, read_scaled)
    data, _ = problem()
    model = smooth()
    run = pk.Trajectory(model, pk.losses.squared, Counting(model.parameters(), 0.1), data)
    with pytest.raises(TypeError, match=message):
        run.step([0, 1])
