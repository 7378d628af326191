"""Bad input at the front door: every message names the argument, what came, and what to write."""

import copy
import re

import pytest
import torch
from torch import nn

import pkbook as pk

NAN = float("nan")


def mlp():
    return pk.models.mlp(2, 4, 1, activation="tanh", seed=0)


def frozen():
    return mlp().requires_grad_(False)


def dropping():
    return nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1))


def batchnorm():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def attention():
    return nn.TransformerEncoderLayer(2, 1, 4, dropout=0.1)


class Functional(nn.Linear):
    """Dropout that no module announces."""

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5)


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


class Total(nn.Linear):
    def forward(self, x):
        return super().forward(x).sum()


class Whole(nn.Linear):
    def forward(self, x):
        return super().forward(x).long()


def poisoned():
    model = mlp()
    with torch.no_grad():
        next(model.parameters())[0, 0] = NAN
    return model


x, y = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.ones(6, 1)
far = torch.empty(3, 2, device="meta")
holed = torch.tensor([[0.0, 1.0], [NAN, 2.0]])
endless = torch.tensor([[0.0, float("inf")]])


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1} | options)


def run(model=None, loss=pk.losses.squared, optimizer=None, data=(x, y), **options):
    model = mlp() if model is None else model
    return pk.Trajectory(model, loss, optimizer or sgd(model), data, **options)


def trained(**options):
    made = run(**options)
    for batch in pk.batches(6, size=2, steps=3):
        made.step(batch)
    return made


def weights(**changes):
    return {name: 1.0 for name, _ in mlp().named_parameters()} | changes


def moved(**changes):
    return {n: p.detach() for n, p in mlp().named_parameters()} | changes


K, N, T = pk.gradient_kernel, pk.normalised_kernel, pk.tangent_features
CASES = {
    # models
    "model is no module": (lambda: K(lambda z: z, x), TypeError, "model must be a torch.nn.Module"),
    "no trainable parameter": (lambda: K(frozen(), x), ValueError, "no trainable parameter.*requires_grad"),
    "dropout in train mode": (lambda: K(dropping(), x), ValueError, r"'1' \(Dropout\).*model\.eval"),
    "BatchNorm in train mode": (lambda: K(batchnorm(), x), ValueError, r"BatchNorm1d.*model\.eval"),
    "attention in train mode": (lambda: K(attention(), x), ValueError, r"train mode.*model\.eval"),
    "hidden random numbers": (lambda: K(Functional(2, 1).eval(), x), ValueError, "random numbers"),
    "several outputs": (lambda: K(Pair(2, 1), x), TypeError, "one tensor.*got tuple.*wrap"),
    "no row per sample": (lambda: K(Total(2, 1), x), ValueError, "one row per sample.*shape"),
    "integer outputs": (lambda: K(Whole(2, 1), x), TypeError, "floating-point outputs.*int64"),
    "NaN parameter": (lambda: K(poisoned(), x), ValueError, "parameter 'fc1.weight' must be finite"),
    # inputs
    "x is a list": (lambda: K(mlp(), [[0.0, 1.0]]), TypeError, "x1 must be a torch.Tensor, got list.*as_tensor"),
    "x is empty": (lambda: K(mlp(), x[:0]), ValueError, r"x1 must hold at least one sample.*\(0, 2\)"),
    "x2 is empty": (lambda: K(mlp(), x, x[:0]), ValueError, "x2 must hold at least one sample"),
    "x is a scalar": (lambda: K(mlp(), torch.tensor(1.0)), ValueError, "x1 must hold at least one"),
    "NaN in x": (lambda: K(mlp(), holed), ValueError, r"x1 must be finite, got nan at index \[1, 0\]"),
    "infinity in x": (lambda: K(mlp(), endless), ValueError, r"x1 must be finite, got inf"),
    "other device": (lambda: K(mlp(), far), ValueError, "x1.*device cpu, got meta.*x1.to"),
    "other dtype": (lambda: K(mlp(), x.double()), TypeError, "x1.*float32, got torch.float64.*x1.to"),
    # kernels
    "unknown reduction": (lambda: K(mlp(), x, reduce="sum"), ValueError, "reduce must be one of 'trace'.*'sum'"),
    "no memory": (lambda: K(mlp(), x, memory=0), ValueError, "memory must be at least 1, got 0"),
    "too little memory": (lambda: K(mlp(), x, memory=99), ValueError, "memory must hold the gradients of one sample.*at least.*got 99"),
    "zero gradient": (lambda: N(nn.Linear(2, 1, bias=False), x * 0), ValueError, r"x1\[0\] has a zero gradient"),
    "output out of range": (lambda: T(mlp(), x, outputs=1), ValueError, r"outputs must lie in 0\.\.0"),
    "outputs of another length": (lambda: T(mlp(), x, outputs=torch.tensor([0, 0])), ValueError, r"one int per query \[6\]"),
    "fractional outputs": (lambda: T(mlp(), x, outputs=0.5), TypeError, "outputs must hold integers"),
    "foreign parameters": (lambda: K(mlp(), x, parameters={"w": x}), ValueError, "parameters must have the names.*fc1"),
    "NaN in parameters": (
        lambda: K(mlp(), x, parameters=moved(**{"fc1.weight": torch.full((4, 2), NAN)})),
        ValueError, "parameter 'fc1.weight' must be finite",
    ),
    "missing weight": (lambda: pk.weighted_kernel(mlp(), x, weight={}), ValueError, "weight must be a dict.*fc1"),
    "negative weight": (
        lambda: pk.weighted_kernel(mlp(), x, weight=weights(**{"fc1.bias": -1.0})),
        ValueError, r"weight\['fc1.bias'\].*not negative",
    ),
    "NaN weight": (
        lambda: pk.weighted_kernel(mlp(), x, weight=weights(**{"fc1.bias": NAN})),
        ValueError, r"weight\['fc1.bias'\] must be finite",
    ),
    "weight of wrong shape": (
        lambda: pk.weighted_kernel(mlp(), x, weight=weights(**{"fc1.bias": torch.ones(3)})),
        ValueError, r"shape \(4,\), got \(3,\)",
    ),
    # recording
    "lengths differ": (lambda: run(data=(x, y[:4])), ValueError, r"x and y must have.*6 rows.*\(4, 1\)"),
    "empty data": (lambda: run(data=(x[:0], y[:0])), ValueError, "x must hold at least one sample"),
    "data is no pair": (lambda: run(data=x), TypeError, r"data must be a pair \(x, y\)"),
    "NaN in targets": (lambda: run(data=(x, y * NAN)), ValueError, "y must be finite"),
    "targets elsewhere": (lambda: run(data=(x, y.to("meta"))), ValueError, r"y must be on.*y\.to"),
    "integer targets, squared loss": (lambda: run(data=(x, y.long())), TypeError, "targets.*int64.*float"),
    "flat targets, squared loss": (lambda: run(data=(x, y[:, 0])), ValueError, r"targets.*\(2, 1\).*\(2,\)|targets"),
    "loss with a matrix": (lambda: run(loss=lambda f, t: f - t), ValueError, "loss must return a scalar or one value"),
    "unknown optimizer": (
        lambda: run(m := mlp(), optimizer=torch.optim.LBFGS(m.parameters())),
        TypeError, "optimizer LBFGS cannot be taken apart: its direction",
    ),
    "optimizer is a function": (lambda: run(optimizer=lambda: 0), TypeError, "optimizer must be a torch.optim"),
    "another model's optimizer": (lambda: run(optimizer=sgd(mlp())), ValueError, "parameter that is not the model's"),
    "no trainable parameter to record": (
        lambda: pk.Trajectory(frozen(), pk.losses.squared, sgd(frozen()), (x, y)),
        ValueError, "no trainable parameter",
    ),
    "checkpoint every zero steps": (lambda: run(every=0), ValueError, "every must be at least 1"),
    "sample number out of range": (lambda: run().step([0, 6]), ValueError, r"0\.\.5, got \[0, 6\]"),
    "negative sample number": (lambda: run().step([-1]), ValueError, r"0\.\.5, got \[-1\]"),
    "empty batch": (lambda: run().step(torch.empty(0, dtype=torch.long)), ValueError, "batch must hold"),
    "fractional batch": (lambda: run().step([0.5]), TypeError, "batch must be a one-dimensional"),
    "more than there are": (lambda: next(pk.batches(3, size=4, steps=1)), ValueError, "size must be at most.*3, got 4"),
    "no steps given": (lambda: next(pk.batches(3, steps=-1)), ValueError, "steps must be at least 0"),
    "n is a float": (lambda: next(pk.batches(3.0, steps=1)), TypeError, "n must be an int, got float"),
    # interpolation
    "run without steps": (lambda: run().interpolate(x), ValueError, r"no step yet.*run\.step"),
    "query elsewhere": (lambda: trained().interpolate(far), ValueError, "x must be on.*meta.*x.to"),
    "query in float64": (lambda: trained().interpolate(x.double()), TypeError, "x must have.*float32"),
    "NaN query": (lambda: trained().interpolate(holed), ValueError, "x must be finite"),
    "empty query": (lambda: trained().interpolate(x[:0]), ValueError, "x must hold at least one"),
    "unknown rule": (lambda: trained().interpolate(x, rule="simpson"), ValueError, "rule must be one of 'gauss'"),
    "no nodes": (lambda: trained().interpolate(x, nodes=0), ValueError, "nodes must be at least 1"),
    "negative tolerance": (lambda: trained().interpolate(x, tolerance=-1.0), ValueError, "tolerance must be a positive"),
    "NaN tolerance": (lambda: trained().interpolate(x, tolerance=NAN), ValueError, "tolerance must be a positive"),
    "query out of range": (lambda: trained().interpolate(x).top(1, query=6), ValueError, r"query must lie in 0\.\.5"),
    "top of nothing": (lambda: trained().interpolate(x).top(0), ValueError, "k must be at least 1"),
    "moment out of range": (lambda: trained().model_at(4), ValueError, r"k must lie in 0\.\.3"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_by_name(name):
    call, error, message = CASES[name]
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        call()


def test_a_refused_step_is_not_recorded():
    made = trained()
    before = copy.deepcopy(made.model.state_dict())
    with pytest.raises(ValueError, match="sample numbers"):
        made.step([99])
    assert len(made) == 3
    assert all(torch.equal(v, before[n]) for n, v in made.model.state_dict().items())
