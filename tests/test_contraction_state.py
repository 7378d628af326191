"""What the engine leaves as it was, and what it refuses."""

import copy
import re

import oracles
import pytest
import torch
from cases import BY_NAME, every_case, off, reduced, setting, some
from torch import nn

import pkbook as pk
from pkbook.basics.parameters import trainable

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def state(model):
    """All that a computation could leave changed on a model."""
    tensors = [*model.parameters(), *model.buffers()]
    return (
        [t.clone() for t in tensors] + [torch.get_rng_state()],
        [(id(t), t.requires_grad, t.grad, t._version) for t in tensors],
        [(id(m), m.training, list(m._parameters), list(m._buffers)) for m in model.modules()],
        [
            [len(hooks) for name, hooks in sorted(vars(m).items()) if name.endswith("_hooks")]
            for m in model.modules()
        ],
        torch.is_grad_enabled(),
    )


def assert_same_state(before, after):
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert before[1:] == after[1:]


@every_case
def test_nothing_is_left_changed(case):
    model, x = case.model(), case.data()
    before, kept = state(model), x.clone()
    pk.gradient_kernel(model, x, case.data(3, 1))
    assert_same_state(before, state(model))
    assert torch.equal(x, kept)


class Interrupted(nn.Module):
    """Ctrl-C at the k-th call."""

    def __init__(self, inner, at):
        super().__init__()
        self.inner, self.at, self.calls = inner, at, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.inner(x)


@some("mlp, several outputs", "cnn", "lstm", "scale outside a layer", "tied embedding", "encoder")
def test_an_interruption_leaves_nothing_changed(case):
    inner, x1, x2, left, right = setting(case)
    for at in range(1, 100):
        model = Interrupted(copy.deepcopy(inner), at).eval()
        before = state(model)
        try:
            pk.gradient_kernel(model, x1, x2)
        except KeyboardInterrupt:
            assert_same_state(before, state(model))
            model.at = 0  # and what comes next is right
            assert off(pk.gradient_kernel(model, x1, x2), reduced(left, right, "trace")) <= 1e-10
        else:
            break
    assert 5 < at < 99  # each call of the forward pass has been interrupted once


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_inside_a_region_without_gradients(guard):
    for name in ("mlp, several outputs", "cnn", "lstm"):
        model, x1, x2, left, right = setting(BY_NAME[name])
        with guard():
            got = pk.gradient_kernel(model, x1, x2)
        assert off(got, reduced(left, right, "trace")) <= 1e-10


def test_inputs_that_ask_for_gradients_give_a_plain_kernel():
    for name in ("mlp, several outputs", "cnn", "lstm", "weight norm"):
        model, x1, x2, left, right = setting(BY_NAME[name])
        got = pk.gradient_kernel(model, x1.clone().requires_grad_(), x2)
        assert not got.requires_grad
        assert off(got, reduced(left, right, "trace")) <= 1e-10


class Mixing(nn.Linear):
    """The output for one sample depends on the others, from ``least`` samples on."""

    def __init__(self, least=2):
        super().__init__(5, 2)
        self.least = least

    def forward(self, x):
        y = torch.tanh(super().forward(x - x.mean(0)))
        return y if len(x) >= self.least else torch.tanh(super().forward(x))


class Branching(nn.Module):
    """Python looks at the whole batch to choose the way."""

    def __init__(self, same_layer):
        super().__init__()
        self.a = nn.Linear(5, 2)
        self.b = self.a if same_layer else nn.Linear(5, 2)

    def forward(self, x):
        return torch.tanh(self.a(x)) if x.sum() > 0 else torch.tanh(self.b(2 * x))


class Noisy(nn.Linear):
    """Draws numbers; ``part`` says how much they matter."""

    part = 1.0

    def forward(self, x):
        return super().forward(x) + self.part * torch.randn_like(x[:, :2])


def vectors(n=6):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(0)).double()


def refused(model, x1, x2=None, error=ValueError, match="samples of a batch"):
    for reduce in ("trace", "full"):
        with pytest.raises(error, match=match):
            pk.gradient_kernel(
                model.double() if error is ValueError else model, x1, x2, reduce=reduce
            )


MIXED = {
    "many": (vectors(), None),
    "one against many": (vectors(1), vectors()),
    "many against one": (vectors(), vectors(1)),
    "first and last equal": (vectors()[[0, 1, 2, 0]], None),
    "all equal": (vectors(1).expand(4, 5), vectors()),
}


@pytest.mark.parametrize("inputs", MIXED.values(), ids=list(MIXED))
def test_a_model_that_mixes_samples_is_refused(inputs):
    refused(Mixing(), *inputs)


def test_a_model_that_mixes_three_samples_but_not_two_is_refused():
    refused(Mixing(least=3), vectors())


def test_a_model_that_mixes_samples_is_refused_in_bfloat16():
    with pytest.raises(ValueError, match="samples of a batch"):
        pk.gradient_kernel(Mixing().bfloat16(), vectors().bfloat16())


class Squared(torch.nn.Module):
    def forward(self, x):
        return x.square()


@pytest.mark.parametrize("seed", range(6))
def test_outputs_that_cancel_to_zero_are_not_taken_for_mixing(seed):
    """Both ends are zero up to rounding, which has the size of the terms, not of the output."""
    layers = pk.models.mlp(1, 64, 1, activation="tanh", seed=seed).double()
    model, x = torch.nn.Sequential(Squared(), layers), torch.linspace(-1, 1, 6).double()[:, None]
    with torch.no_grad():
        layers[-1].bias -= model(x[-1:])[0]
    assert model(x[[0, -1]]).abs().max() < 1e-15
    assert off(pk.gradient_kernel(model, x, reduce="full"), oracles.kernel(model, x, x)) <= 1e-10


@pytest.mark.parametrize("same_layer", [True, False])
def test_a_way_chosen_by_the_whole_batch_is_refused(same_layer):
    x = vectors().abs()
    x[2] *= -1  # neither the first nor the last
    refused(Branching(same_layer), x)


class InParts(nn.Linear):
    """Takes its batch in parts of two, as models do that save memory."""

    def forward(self, x):
        return torch.cat([torch.tanh(super(InParts, self).forward(part)) for part in x.split(2)])


@pytest.mark.parametrize("reduce", ["trace", "full", "diagonal"])
def test_a_batch_taken_in_parts_is_no_obstacle(reduce):
    model, x = InParts(5, 2).double(), vectors(7)
    for one, other in ((x, None), (x, x[:3]), (x[:1], x)):
        got = pk.gradient_kernel(model, one, other, reduce=reduce)
        wanted = oracles.kernel(model, one, one if other is None else other)
        if reduce != "full":
            wanted = wanted.diagonal(dim1=2, dim2=3)
        wanted = wanted.sum(-1) if reduce == "trace" else wanted
        assert off(got, wanted) <= 1e-10


@pytest.mark.parametrize("same_layer", [True, False])
def test_a_way_chosen_by_single_samples_is_no_obstacle(same_layer):
    model, x = Branching(same_layer).double(), vectors().abs()
    assert off(pk.gradient_kernel(model, x, reduce="full"), oracles.kernel(model, x, x)) <= 1e-10


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(5), nn.Dropout(0.1), nn.InstanceNorm1d(5)],
    ids=lambda m: type(m).__name__,
)
def test_layers_in_train_mode_are_refused_by_name(layer):
    refused(nn.Sequential(nn.Linear(5, 5), layer), vectors(), match=r"'1' .*is in train mode")


def test_batch_statistics_in_eval_mode_are_refused():
    model = nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2, track_running_stats=False)).eval()
    refused(model, vectors(), match="samples of a batch|more than 1 value")


@pytest.mark.parametrize("part", [1.0, 0.0])
def test_a_model_that_draws_numbers_leaves_the_generator_alone(part):
    model = Noisy(5, 2).double()
    model.part = part
    before = torch.get_rng_state()
    try:
        pk.gradient_kernel(model, vectors())
    except ValueError as refusal:
        assert "random" in str(refusal)  # noqa: PT017
    else:
        assert part == 0.0
    assert torch.equal(torch.get_rng_state(), before)


def test_buffers_that_a_forward_pass_would_move_stay():
    """Spectral normalisation in train mode improves its estimate at every call."""
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4))
    model = nn.Sequential(layer, nn.Linear(4, 2)).double()
    before = [b.clone() for b in model.buffers()]
    try:
        pk.gradient_kernel(model, vectors())
    except ValueError as refusal:
        assert "'0" in str(refusal)  # noqa: PT017
    assert all(torch.equal(b, now) for b, now in zip(before, model.buffers(), strict=True))


def test_a_table_that_is_rescaled_in_place_stays():
    model = nn.Sequential(nn.Embedding(5, 4, max_norm=0.5), nn.Flatten(), nn.Linear(8, 2)).double()
    tokens = torch.tensor([[0, 1], [2, 3], [1, 1]])
    before = model[0].weight.detach().clone()
    try:
        pk.gradient_kernel(model, tokens)
    except ValueError as refusal:
        assert "'0" in str(refusal)  # noqa: PT017
    assert torch.equal(model[0].weight, before)


def test_dict_inputs_that_the_model_does_not_take_are_refused_by_name():
    model = nn.Linear(5, 2)
    for name, inputs in (
        ("x1", ({"x": vectors()},)),
        ("x2", (vectors(), {"x": vectors()})),
    ):
        refused(model, *inputs, match=f"model cannot be applied to {name}.*argument 'x'")


class Casting(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 2).double(), nn.Linear(2, 2)

    def forward(self, x):
        return self.b(self.a(x).float())


def test_mixed_dtypes_are_refused_by_name():
    float32, x = nn.Linear(5, 2), vectors()
    double = {name: p.double() for name, p in trainable(float32).items()}
    refused(float32, x.float(), x, error=TypeError, match=r"^x2 must have the model's dtype")
    refused(Casting(), x, error=TypeError, match=r"'b\.weight'.*float32")
    with pytest.raises(TypeError, match=r"^parameters.*float64"):
        pk.gradient_kernel(float32, x.float(), parameters=double)
    with pytest.raises(TypeError, match=r"^parameters.*float64"):
        pk.two_time_kernel(float32, x.float(), parameters1=trainable(float32), parameters2=double)


def test_mixed_devices_are_refused_by_name():
    x, model = vectors(), nn.Sequential(nn.Linear(5, 2), nn.Linear(2, 2)).double()
    refused(model, x, x.to("meta"), match=r"^x2 must be on the model's device cpu, got meta")
    model[1].to("meta")
    refused(model, x, match=r"'1\.weight'.*meta")


def test_activations_that_overflow_are_refused_by_the_name_of_the_layer():
    model = nn.Sequential(
        nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3), nn.Softplus(), nn.Linear(3, 1)
    )
    with torch.no_grad():
        model[2].weight.fill_(3e38)
    for at in (torch.ones(4, 5), torch.cat([torch.zeros(3, 5), torch.ones(1, 5)])):
        with torch.no_grad():
            model[0].weight.copy_(torch.ones(4, 5))
            model[0].bias.zero_()
        with pytest.raises(ValueError, match=r"layer '2'.*(finite|overflow)"):
            pk.gradient_kernel(model, at)


@pytest.mark.parametrize("memory", [0, 1, -5])
def test_a_budget_too_small_for_one_row_is_refused(memory):
    with pytest.raises(ValueError, match=r"^memory must"):
        pk.gradient_kernel(nn.Linear(5, 2).double(), vectors(), memory=memory)


def test_the_budget_that_a_refusal_names_is_enough():
    for name in ("mlp, several outputs", "cnn", "lstm"):
        model, x1, x2, left, right = setting(BY_NAME[name])
        with pytest.raises(ValueError, match="memory must hold") as refusal:
            pk.gradient_kernel(model, x1, x2, memory=1)
        least = int(re.search(r"at least (\d+) bytes", str(refusal.value)).group(1))
        with pytest.raises(ValueError, match="memory must hold"):
            pk.gradient_kernel(model, x1, x2, memory=least - 1)
        got = pk.gradient_kernel(model, x1, x2, memory=least)
        assert off(got, reduced(left, right, "trace")) <= 1e-10


def test_an_output_that_no_parameter_moves_has_a_zero_kernel():
    class Ignoring(nn.Linear):
        def forward(self, x):
            super().forward(x)
            return 2 * x

    k = pk.gradient_kernel(Ignoring(5, 2).double(), vectors())
    assert torch.equal(k, torch.zeros(6, 6).double())


def test_a_layer_at_two_places_is_left_as_it_was():
    case = BY_NAME["layer at two places"]
    model, x = case.model(), case.data()
    before = {name: (t, t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    pk.gradient_kernel(model, x)
    pk.tangent_features(model, x)
    for name, t in model.state_dict(keep_vars=True).items():
        assert t is before[name][0], name
        assert torch.equal(t, before[name][1]), name
