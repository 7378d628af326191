"""The contraction engine against naive per-sample autograd, on every shared case."""

import copy
import re

import oracles
import pytest
import torch
from cases import BY_NAME, CASES, every_case, off, reduced, setting, some
from torch import nn

import pkbook as pk
from pkbook.basics.parameters import trainable
from pkbook.kernels import contraction as contract
from pkbook.kernels.gradients import batch_side
from pkbook.kernels.plan import plan

# Said by torch itself about the naive model of one case.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
REDUCTIONS = ("trace", "diagonal", "full")


def weights(model):
    """A positive number for every entry, and one number for every parameter."""
    generator = torch.Generator().manual_seed(3)
    tree = {
        n: torch.rand(p.shape, generator=generator).double() for n, p in trainable(model).items()
    }
    return tree, {name: 0.5 + k for k, name in enumerate(tree)}


def spread(weight, model):
    """The same weight as one vector ``[P]``."""
    return flat({n: weight[n] * torch.ones_like(p) for n, p in trainable(model).items()})


def flat(tree):
    return torch.cat([t.flatten() for t in tree.values()])


def least_memory(model, x):
    """The fewest bytes that the engine accepts, as its refusal says."""
    with pytest.raises(ValueError, match="memory must hold") as refusal:
        pk.gradient_kernel(model, x, memory=1)
    return int(re.search(r"at least (\d+) bytes", str(refusal.value)).group(1))


def test_there_are_many_cases_with_names_of_their_own():
    assert len(CASES) >= 28
    assert len(BY_NAME) == len(CASES)


@every_case
def test_the_oracle_sees_different_gradients_in_every_case(case):
    """A case whose kernel is zero or constant could not show an error."""
    _, _, _, left, _ = setting(case)
    k = reduced(left, left, "trace")
    assert k.diagonal().min() > 1e-6
    assert k.max() - k.min() > 1e-3 * k.max()


@every_case
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_equals_naive_autograd(case, reduce):
    model, x1, x2, left, right = setting(case)
    assert (
        off(pk.gradient_kernel(model, x1, x2, reduce=reduce), reduced(left, right, reduce)) <= 1e-10
    )
    assert off(pk.gradient_kernel(model, x1, reduce=reduce), reduced(left, left, reduce)) <= 1e-10


@every_case
def test_float32_is_within_its_precision(case):
    _, x1, x2, left, right = setting(case)
    model = case.model(torch.float32)
    x1, x2 = (x.float() if x.is_floating_point() else x for x in (x1, x2))
    for reduce in REDUCTIONS:
        got = pk.gradient_kernel(model, x1, x2, reduce=reduce)
        assert got.dtype == torch.float32
        assert off(got.double(), reduced(left, right, reduce)) <= 1e-5


@every_case
def test_symmetric_and_positive_semidefinite(case):
    model, x1, *_ = setting(case)
    full = pk.gradient_kernel(model, x1, reduce="full")
    matrix = full.transpose(1, 2).flatten(2).flatten(0, 1)
    assert off(matrix, matrix.T) <= 1e-14
    values = torch.linalg.eigvalsh(matrix)
    assert values.min() >= -1e-12 * values.max()
    trace = pk.gradient_kernel(model, x1)
    assert off(trace, trace.T) <= 1e-14


@every_case
def test_the_memory_budget_and_the_splitting_change_nothing(case):
    model, x1, x2, left, right = setting(case)
    least = least_memory(model, x1)
    both = pk.gradient_kernel(model, x1, x2, reduce="full", memory=least)
    assert off(both, reduced(left, right, "full")) <= 1e-10
    for memory in (least, 2 * least):
        for reduce in REDUCTIONS:
            one = pk.gradient_kernel(model, x1, reduce=reduce, memory=memory)
            assert off(one, reduced(left, left, reduce)) <= 1e-10
    rows = torch.cat([pk.gradient_kernel(model, x1[i : i + 1], x2) for i in range(len(x1))])
    assert off(rows, reduced(left, right, "trace")) <= 1e-10


@every_case
def test_blocks_and_strips_of_any_size_change_nothing(case, monkeypatch):
    """The cache-sized pieces, made so small that every case is cut into several."""
    model, x1, x2, left, right = setting(case)
    monkeypatch.setattr(contract, "BLOCK_ENTRIES", 64)
    monkeypatch.setattr(contract, "CACHE_ENTRIES", 4)
    for reduce in REDUCTIONS:
        got = pk.gradient_kernel(model, x1, x2, reduce=reduce)
        assert off(got, reduced(left, right, reduce)) <= 1e-10
    for weight in weights(model):
        got = pk.weighted_kernel(model, x1, x2, weight=weight, reduce="full")
        assert off(got, reduced(left, right, "full", spread(weight, model))) <= 1e-10


@every_case
@pytest.mark.parametrize("way", ["factors", "positions", "gradients"])
def test_every_way_to_contract_gives_the_same(case, way, monkeypatch):
    model, x1, x2, left, right = setting(case)
    chosen = contract.cheapest

    def forced(one, two, reduce, weighted, symmetric):
        usual = chosen(one, two, reduce, weighted, symmetric)
        dense = weighted or type(one) is not type(two) or isinstance(one, contract.Dense)
        if dense or way == "gradients":
            return "gradients"
        single = isinstance(one, contract.Outer) and one.positions == two.positions == 1
        return usual if way == "factors" and not single else way

    monkeypatch.setattr(contract, "cheapest", forced)
    _, numbers = weights(model)  # one number for each parameter leaves all ways open
    row = spread(numbers, model)
    for reduce in REDUCTIONS:
        got = pk.weighted_kernel(model, x1, x2, weight=numbers, reduce=reduce)
        assert off(got, reduced(left, right, reduce, row)) <= 1e-10
        own = pk.gradient_kernel(model, x1, reduce=reduce)
        assert off(own, reduced(left, left, reduce)) <= 1e-10


@every_case
def test_the_number_of_threads_changes_nothing(case):
    model, x1, x2, *_ = setting(case)
    before, got = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            got.append(pk.gradient_kernel(model, x1, x2, reduce="full"))
    finally:
        torch.set_num_threads(before)
    assert off(*got) <= 1e-13


@every_case
def test_a_diagonal_weight(case):
    model, x1, x2, left, right = setting(case)
    tree, numbers = weights(model)
    for weight in (tree, numbers, numbers | dict([*tree.items()][:1])):
        row = spread(weight, model)
        for reduce in REDUCTIONS:
            got = pk.weighted_kernel(model, x1, x2, weight=weight, reduce=reduce)
            assert off(got, reduced(left, right, reduce, row)) <= 1e-10
        own = pk.weighted_kernel(model, x1, weight=weight)
        assert off(own, reduced(left, left, "trace", row)) <= 1e-10


@every_case
def test_two_parameter_states(case):
    model, x1, x2, left, right = setting(case)
    early = trainable(model)
    generator = torch.Generator().manual_seed(4)
    step = 0.1 * torch.randn(sum(p.numel() for p in early.values()), generator=generator).double()
    later = oracles.set_vector(model, oracles.vector(model) + step)
    late, moved = trainable(later), oracles.jacobian(later, x1)
    for reduce in REDUCTIONS:
        got = pk.two_time_kernel(model, x1, x2, parameters1=late, parameters2=early, reduce=reduce)
        assert off(got, reduced(moved, right, reduce)) <= 1e-10
        same = pk.two_time_kernel(model, x1, parameters1=early, parameters2=late, reduce=reduce)
        assert off(same, reduced(left, moved, reduce)) <= 1e-10


@every_case
def test_the_exact_rules_cover_what_they_should(case):
    model, x1, *_ = setting(case)
    parameters = trainable(model)
    assert case.rest <= set(parameters)
    assert plan(model, x1, parameters).covered == set(parameters) - case.rest


@every_case
@pytest.mark.parametrize("n", [5, 1])
def test_what_is_planned_is_found_and_agrees_with_autograd(case, n):
    """A rule that always fails would be slow, and nothing else would show it."""
    model, x1, *_ = setting(case)
    parameters = trainable(model)
    made = plan(model, x1[:n], parameters)
    _, settled = batch_side(model, x1[:n], parameters, made, planned=True)
    assert made.covered <= settled


@some("mlp, several outputs", "cnn", "time distributed", "lstm", "rows, time first")
@pytest.mark.parametrize("n", [70, 64, 33])
def test_a_symmetric_kernel_of_many_samples(case, n):
    """Many enough for the triangle to be computed in strips and mirrored."""
    model, x = case.model(), case.data(n, 2)
    left = oracles.jacobian(model, x)
    memory = least_memory(model, x)
    for reduce in REDUCTIONS:
        for budget in (None, 30 * memory):
            got = pk.gradient_kernel(model, x, reduce=reduce, memory=budget)
            assert off(got, reduced(left, left, reduce)) <= 1e-10


@some("mlp, several outputs", "cnn", "residual cnn, batch norm", "embedding, padding", "rms norm",
      "lstm", "scale outside a layer", "frames, time first")  # fmt: skip
def test_bfloat16_with_sums_in_float32(case):
    rounded = case.model(torch.bfloat16)
    x = case.data(5, 0, torch.bfloat16)
    exact = copy.deepcopy(rounded).double()
    left = oracles.jacobian(exact, x.double() if x.is_floating_point() else x)
    for reduce in REDUCTIONS:
        got = pk.gradient_kernel(rounded, x, reduce=reduce)
        assert got.dtype == torch.float32
        assert off(got.double(), reduced(left, left, reduce)) <= 0.05


def test_bfloat16_products_are_summed_in_float32():
    """One linear layer: the gradients are the inputs, so only the sums could be rounded."""
    x = torch.randn(6, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    got = pk.gradient_kernel(nn.Linear(300, 1).bfloat16(), x)
    assert off(got.double(), x.double() @ x.double().T + 1) <= 1e-6


def test_one_sample_can_be_the_whole_batch():
    for name in ("cnn", "encoder", "frames, time first", "tied embedding"):
        model, x1, x2, left, right = setting(BY_NAME[name])
        got = pk.gradient_kernel(model, x1[:1], x2[:1], reduce="full")
        assert off(got, reduced(left[:1], right[:1], "full")) <= 1e-10


@every_case
def test_as_many_samples_as_outputs(case):
    """Where two dimensions have one size, mixing them up goes unnoticed."""
    model, _, _, left, _ = setting(case)
    x = case.data(left.shape[1], 5)
    left = oracles.jacobian(model, x)
    for reduce in REDUCTIONS:
        assert (
            off(pk.gradient_kernel(model, x, reduce=reduce), reduced(left, left, reduce)) <= 1e-10
        )


def test_equal_samples_are_told_apart_by_their_place():
    """First and last sample equal: where the samples are cannot be read from these two alone."""
    for case in CASES:
        model, x, _, left, _ = setting(case)
        order = [0, 1, 2, 0]
        got = pk.gradient_kernel(model, x[order], reduce="full")
        assert off(got, reduced(left[order], left[order], "full")) <= 1e-10, case.name
