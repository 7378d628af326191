"""What a recorded run could once get wrong without a word: it works, or says so at once."""

import threading
import warnings

import numpy as np
import pytest
import torch
from recording_worker import begin, go_on, parts, plain, reopen, same, state
from silent_parts import X, Y, begun, net, sgd, trained
from torch import nn
from torch.nn.utils import prune

import pkbook as pk
from pkbook.runs.manifest import dump_manifest, load_manifest


@pytest.mark.parametrize("steps", [4, 5, 8, 10], ids=lambda k: f"{k} steps")
def test_a_run_is_not_opened_with_another_loss(tmp_path, steps):
    """Also where the last step stands at a checkpoint, and nothing has to be replayed."""
    go_on(begin(tmp_path / "run", every=5), steps).close()
    own = parts()
    own["loss"] = lambda f, y: 1.001 * pk.losses.squared(f, y)
    first = 5 if steps in (8, 10) else 0
    what = rf"steps {first} to {steps} replayed differently.*the loss of step {first} is"
    for read_only in (False, True):
        with pytest.raises(pk.ReplayError, match=what):
            reopen(tmp_path / "run", own, read_only=read_only)
    with reopen(tmp_path / "run") as run:
        assert same(state(run), plain(steps)[-1])


def test_elsewhere_another_loss_is_warned_of(tmp_path):
    go_on(begin(tmp_path / "run", every=5), 7).close()
    path = tmp_path / "run" / "manifest.json"
    content = load_manifest(path)
    content["environment"]["threads"] = 99
    path.write_bytes(dump_manifest(content))
    reopen(tmp_path / "run").close()
    own = parts()
    own["loss"] = lambda f, y: 2 * pk.losses.squared(f, y)
    with pytest.warns(UserWarning, match=r"the loss of step 5 is .*: is it that of the recorded"):
        reopen(tmp_path / "run", own).close()


class Keeping(nn.Module):
    """Keeps an activation, a lock, and both once more inside of other things."""

    def __init__(self):
        super().__init__()
        self.net = net()
        self.lock = threading.Lock()
        self.seen = {}
        self.lines = (line for line in ("a", "b"))

    def forward(self, x):
        with self.lock:
            self.out = self.net(x)
        self.seen["last"] = [self.out, self.lock]
        return self.out


def pruned():
    model = net()
    prune.l1_unstructured(model.fc1, "weight", amount=0.5)
    return model


def normed(kind):
    def make():
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore", FutureWarning)
            torch.manual_seed(0)
            return nn.Sequential(kind(nn.Linear(2, 5)), nn.Tanh(), nn.Linear(5, 1))

    return make


@pytest.mark.parametrize(
    "make",
    [
        Keeping,
        pruned,
        normed(nn.utils.weight_norm),
        normed(nn.utils.spectral_norm),
        normed(nn.utils.parametrizations.weight_norm),
        normed(nn.utils.parametrizations.orthogonal),
    ],
    ids=["keeping", "pruned", "weight norm", "spectral norm", "parametrized", "orthogonal"],
)
def test_models_that_cannot_be_deep_copied_are_replayed(make):
    model = make()
    run = begun(model, optimizer=sgd(model, momentum=0.9), every=3)
    seen = [{n: p.detach().clone() for n, p in model.named_parameters()}]
    for batch in pk.batches(12, size=4, steps=8, seed=3):
        run.step(batch)
        seen.append({n: p.detach().clone() for n, p in model.named_parameters()})
    for k in (0, 4, 8):
        told = run.parameters(k)
        assert told.keys() == seen[k].keys()
        assert all(torch.equal(told[n], seen[k][n]) for n in told)
    assert run.verify() == 0


def test_what_a_model_keeps_does_not_change_its_path_kernel():
    keeping, usual = trained(model=Keeping()), trained(model=net())
    torch.testing.assert_close(keeping.path_kernel(X[:3]), usual.path_kernel(X[:3]))
    assert keeping.model.out.grad_fn is not None  # the reader's own is left alone


class InPlace(nn.Linear):
    def forward(self, x):
        return super().forward(x.sub_(0.5).div_(2))


def test_a_forward_pass_in_place_leaves_the_data_alone():
    def loss(outputs, targets):
        return pk.losses.squared(outputs, targets.mul_(3))

    x, y = X.clone(), Y.clone()
    model = InPlace(2, 1)
    run = begun(model, loss, data=(x, y))
    run.step(range(12))
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
    assert run.verify() == 0


def test_a_rate_that_is_no_python_number_is_refused(tmp_path):
    model = net()
    with pytest.raises(TypeError, match=r"option lr must be .* got float32 0\.1.*write float\(lr"):
        begun(model, optimizer=sgd(model, lr=np.float32(0.1)), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with begun(model, optimizer=sgd(model, lr=np.float64(0.1)), folder=tmp_path / "run") as run:
        run.step([0, 1])
        run.optimizer.param_groups[0]["lr"] = np.float32(0.2)
        with pytest.raises(TypeError, match="option lr must be a Python number"):
            run.step([0, 1])
        run.optimizer.param_groups[0]["lr"] = 0.2
        run.step([0, 1])
    assert run.verify() == 0
    assert [r.settings[0]["lr"] for r in run.store.steps] == [0.1, 0.2]


CHANGES = {
    "other parameter groups": lambda run, model: run.optimizer.add_param_group(
        {"params": [model.extra]}
    ),
    "other parameters of the optimizer require": lambda run, model: model.fc1.bias.requires_grad_(
        False
    ),
    "has other parameters": lambda run, model: setattr(model, "fc2", nn.Linear(8, 1)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_parameters_that_come_or_go_end_a_run(what):
    model = net()
    model.extra = nn.Parameter(torch.ones(1))
    run = begun(model, optimizer=torch.optim.SGD([*model.fc1.parameters()], lr=0.1))
    run.step([0, 1])
    before = [p.detach().clone() for p in model.parameters()]
    CHANGES[what](run, model)
    with pytest.raises(ValueError, match=rf"before step 1: .*{what}.*up to step 1 is kept"):
        run.step([0, 1])
    assert len(run) == 1
    assert what == "has other parameters" or all(map(torch.equal, before, model.parameters()))


def test_what_the_optimizer_does_not_move_may_be_frozen_and_freed():
    model = net()
    run = begun(model, optimizer=torch.optim.SGD([*model.fc1.parameters()], lr=0.1), every=2)
    for k in range(5):
        model.fc2.requires_grad_(k % 2 == 0)
        run.step([0, 1])
    assert run.verify() == 0


@pytest.mark.parametrize("name", ["model", "loss", "optimizer", "x", "y"])
def test_the_parts_of_a_run_cannot_be_exchanged(name):
    run = trained()
    with pytest.raises(AttributeError, match=name):
        setattr(run, name, getattr(run, name))


def words(sparse=True):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(5, 3, sparse=sparse), nn.Flatten(), nn.Linear(6, 1))


@pytest.mark.parametrize(
    ("kind", "options"), [("SGD", {"momentum": 0.9}), ("Adagrad", {}), ("Adam", {})]
)
def test_sparse_gradients_with_a_memory_are_refused_before_the_step(kind, options):
    model = words()
    data = torch.randint(5, (12, 2), generator=torch.Generator().manual_seed(0)), Y
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1, **options)
    run = begun(model, optimizer=optimizer, data=data)
    with pytest.raises(ValueError, match=rf"'0\.weight' must be dense for {kind}.*sparse=False"):
        run.step([0, 1, 2])
    assert len(run) == 0


def test_sparse_gradients_of_plain_descent_are_taken_apart():
    data = torch.randint(5, (12, 2), generator=torch.Generator().manual_seed(0)), Y
    sparse, dense = (trained(model=words(sparse), data=data) for sparse in (True, False))
    assert sparse.verify() == 0
    torch.testing.assert_close(
        sparse.interpolate(data[0][:2]).contributions, dense.interpolate(data[0][:2]).contributions
    )


def test_a_loss_without_a_gradient_is_refused_by_name():
    run = begun(net(), lambda f, y: pk.losses.squared(f.detach(), y))
    with pytest.raises(ValueError, match=r"loss of step 0 must depend on .*got a number without"):
        run.step([0, 1])
    assert len(run) == 0


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_vectors_shortened_in_the_forward_pass_are_refused(kind):
    model = nn.Sequential(kind(5, 3, max_norm=0.5), nn.Flatten(), nn.LazyLinear(1))
    tokens = torch.randint(5, (12, 2), generator=torch.Generator().manual_seed(0))
    model(tokens)
    with pytest.raises(ValueError, match=r"layer '0' \(Embedding.*max_norm=None, got 0.5"):
        begun(model, data=(tokens, Y))


def test_under_inference_mode_a_run_is_recorded_as_elsewhere(tmp_path):
    own, other = parts(norm=True), parts(seed=9, norm=True)
    seen = plain(own=parts(norm=True))
    with torch.inference_mode():
        with begin(tmp_path / "run", own=own) as run:
            go_on(run, 13)
            assert same(state(run), seen[13])
            assert run.verify() == 0
        with reopen(tmp_path / "run", other) as run:
            pass
        with pytest.raises(ValueError, match=r"'0\.weight' must be made outside of .*inference"):
            begin(None)
    assert same(state(run), seen[13])
    assert not any(t.is_inference() for t in state(run)[0].values())


def test_a_model_of_several_processes_is_refused_in_part(tmp_path):
    from torch.nn.parallel import DistributedDataParallel

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1
    )
    try:
        model = DistributedDataParallel(net())
        with pytest.raises(TypeError, match="layer '0' is a DistributedDataParallel; wrap the wh"):
            begun(torch.nn.Sequential(model))
        run = begun(model)  # of one process: as without it
        assert run.model is model.module
        run.step([0, 1])
        assert run.verify() == 0
    finally:
        torch.distributed.destroy_process_group()
