"""What a recorded run could once get wrong without a word: it works, or says so at once."""

import json
import random
import threading
import warnings
import zlib

import numpy as np
import pytest
import torch
from recording_worker import begin, go_on, parts, plain, reopen, same, state
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

import pkbook as pk
from pkbook.runs.manifest import dump_manifest, load_manifest
from pkbook.runs.replay import Replay

X = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))
Y = X.prod(1, keepdim=True)


def net(seed=0):
    return pk.models.mlp(2, 8, 1, activation="tanh", seed=seed)


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1} | options)


def begun(model=None, loss=pk.losses.squared, optimizer=None, data=(X, Y), **options):
    model = net() if model is None else model
    return pk.Trajectory(model, loss, optimizer or sgd(model), data, **options)


def trained(steps=7, **options):
    run = begun(**options)
    for batch in pk.batches(len(run.x), size=4, steps=steps, seed=3):
        run.step(batch)
    return run


# Another loss or another layer at opening


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


# Batches


def test_a_pair_from_a_data_loader_is_no_accumulation():
    words = torch.randint(5, (12,), generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    run = begun(model, nn.CrossEntropyLoss(), data=(words, words % 2))
    pair = next(iter(DataLoader(TensorDataset(words, words % 2), batch_size=4)))
    assert isinstance(pair, list)
    with pytest.raises(TypeError, match=r"got a tuple \(Tensor, Tensor\).*DataLoader\(range\(12\)"):
        run.step(tuple(pair))
    with pytest.raises(TypeError, match=r"may be data as well.*first\.tolist\(\)"):
        run.step(pair)
    run.step([t.tolist() for t in pair])
    for numbers in DataLoader(range(12), batch_size=4):
        run.step(numbers)
    assert [len(r.batch) for r in run.store.steps] == [8, 4, 4, 4]
    assert [r.parts for r in run.store.steps] == [[4, 4], [], [], []]
    with pytest.raises(TypeError, match=r"dtype torch.float32, shape \(4, 2\).*over data gives"):
        begun().step([X[:4], Y[:4]])


def test_a_list_of_two_tensors_accumulates_where_it_cannot_be_data():
    run, other = begun(), begun()
    run.step([torch.tensor([0, 1]), torch.tensor([2, 3])])
    other.step([0, 1, 2, 3])
    for p, q in zip(run.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize(
    ("batch", "numbers"),
    [
        (slice(None), list(range(12))),
        (slice(2, 9, 3), [2, 5, 8]),
        (range(3, 6), [3, 4, 5]),
        ((7, 1), [7, 1]),
        (torch.tensor([3, 1], dtype=torch.uint16), [3, 1]),
        (torch.tensor([3, 1], dtype=torch.uint64), [3, 1]),
        (np.array([3, 1]), [3, 1]),
    ],
)
def test_what_numbers_samples_is_a_batch(batch, numbers):
    run, other = begun(), begun()
    run.step(batch)
    other.step(numbers)
    assert list(run.store.steps[0].batch) == numbers
    assert all(map(torch.equal, run.model.parameters(), other.model.parameters()))


@pytest.mark.parametrize(
    ("batch", "advice"),
    [
        ({3, 1}, r"got set; write sorted\(batch\)"),
        ((i for i in (3, 1)), r"got generator; write list\(batch\)"),
        (iter([3, 1]), r"got list_iterator; write list\(batch\)"),
        (torch.tensor([1j]), "got dtype torch.complex64"),
    ],
)
def test_what_has_no_order_or_no_numbers_is_refused(batch, advice):
    run = begun()
    with pytest.raises(TypeError, match=advice):
        run.step(batch)
    assert len(run) == 0


def test_a_full_batch_is_kept_as_a_range(tmp_path):
    with trained(steps=2, folder=tmp_path / "run") as run:
        for _ in range(3):
            run.step(torch.arange(12))
        run.step([torch.arange(6), torch.arange(6, 12)])
        run.step(torch.arange(12).flip(0))
    lines = (tmp_path / "run" / "steps.jsonl").read_bytes().splitlines()
    told = [json.loads(line.partition(b" ")[2]) for line in lines]
    assert [t.get("range") for t in told[2:]] == [[0, 12]] * 4 + [None]
    assert told[-1]["batch"] == list(range(12))[::-1]
    model = net(seed=5)
    with pk.Trajectory.open(
        tmp_path / "run", model, pk.losses.squared, sgd(model), (X, Y)
    ) as again:
        assert again.verify() == 0
        assert [list(r.batch) for r in again.store.steps] == [
            list(r.batch) for r in run.store.steps
        ]
        told = again.interpolate(X[:2])
    assert told.completeness.max() < 1e-3


def test_a_folder_from_before_ranges_opens(tmp_path):
    """Every number was written out; and the steps come to the same, bit for bit."""
    with begun(folder=tmp_path / "run", every=3) as run:
        for _ in range(5):
            run.step(torch.arange(12))
        end = [p.detach().clone() for p in run.model.parameters()]
    log = tmp_path / "run" / "steps.jsonl"
    old = []
    for line in log.read_bytes().splitlines():
        told = json.loads(line.partition(b" ")[2])
        told["batch"] = list(range(*told.pop("range")))
        body = json.dumps(told, separators=(",", ":")).encode()
        old.append(b"%08x %s\n" % (zlib.crc32(body), body))
    log.write_bytes(b"".join(old))
    model = net(seed=5)
    with pk.Trajectory.open(
        tmp_path / "run", model, pk.losses.squared, sgd(model), (X, Y)
    ) as again:
        assert again.verify() == 0
        assert all(map(torch.equal, end, model.parameters()))


# Models that keep things


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
    [Keeping, pruned, normed(nn.utils.weight_norm), normed(nn.utils.spectral_norm)],
    ids=["keeping", "pruned", "weight norm", "spectral norm"],
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


# Optimizers that change


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
    "other parameters of the model require": lambda run, model: model.fc1.bias.requires_grad_(
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


def test_a_model_of_several_processes_is_refused(tmp_path):
    from torch.nn.parallel import DistributedDataParallel

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1
    )
    try:
        model = DistributedDataParallel(net())
        with pytest.raises(TypeError, match=r"got a DistributedDataParallel.*ddp\.module"):
            begun(model)
        begun(model.module).step([0, 1])
    finally:
        torch.distributed.destroy_process_group()


# Faults told at the first step


class Wrong(nn.Module):
    """A network with something in its forward pass that is on no record."""

    def __init__(self, what):
        super().__init__()
        self.net, self.what, self.calls = net(), what, 0
        self.mean = torch.zeros(())

    def forward(self, x):
        f = self.net(x)
        if self.what == "numpy":
            return f * float(np.random.rand())  # noqa: NPY002
        if self.what == "random":
            return f * random.random()
        if self.what == "counter":
            self.calls += 1
            return f * (1 + 0.1 * self.calls)
        self.mean = 0.9 * self.mean + f.mean().detach()
        return f - self.mean


def hooked(model):
    model.fc1.weight.register_hook(lambda g: 2 * g)
    return begun(model)


def hooked_optimizer(model):
    optimizer = sgd(model)

    @torch.no_grad()
    def double(optimizer, args, options):
        model.fc1.weight.grad.mul_(2)

    optimizer.register_step_pre_hook(double)
    return begun(model, optimizer=optimizer)


def penalised(model):
    def loss(f, y):
        return pk.losses.squared(f, y).mean() + 0.1 * model.fc1.weight.square().sum()

    return begun(model, loss)


def stateful(model):
    scale = [1.0]

    def loss(f, y):
        scale[0] *= 0.9
        return scale[0] * pk.losses.squared(f, y)

    return begun(model, loss)


def step_with_autocast(run):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run.step(range(12))


FAULTS = {
    "autocast was on around step": (begun, step_with_autocast),
    "parameter 'fc1.weight' has a gradient hook": (hooked, None),
    "the optimizer has hooks around its step": (hooked_optimizer, None),
    "the loss reads parameters": (penalised, None),
    "the loss gives another value": (stateful, None),
    "random numbers of torch.*not in the loss": (
        lambda model: begun(model, lambda f, y: pk.losses.squared(f, y) * torch.rand(len(f))),
        None,
    ),
    "random numbers of numpy": (lambda model: begun(Wrong("numpy")), None),
    "random numbers of random": (lambda model: begun(Wrong("random")), None),
    "changes the attribute 'calls' of layer 'model'": (lambda model: begun(Wrong("counter")), None),
    "changes the attribute 'mean' of layer 'model'": (lambda model: begun(Wrong("mean")), None),
}


@pytest.mark.parametrize("cause", FAULTS)
def test_a_fault_is_told_at_the_first_step_with_its_cause(cause):
    make, step = FAULTS[cause]
    step = step or (lambda run: run.step(range(12)))
    before = torch.get_rng_state()
    with pytest.raises(pk.ReplayError, match=f"step 0 was made, but .*Cause: .*{cause}.*check=Fal"):
        step(make(net()))
    if "torch" not in cause:
        assert torch.equal(torch.get_rng_state(), before)


def test_a_fault_that_comes_later_is_told_later():
    run = begun(every=5)
    for k in range(12):
        if k == 5:
            with pytest.raises(pk.ReplayError, match="step 5 was made"):
                step_with_autocast(run)
            break
        run.step(range(12))
    assert len(run) == 6


def test_a_change_between_the_first_steps_is_told():
    run = begun()
    with torch.no_grad():
        run.model.fc1.weight.mul_(2)
    with pytest.raises(pk.ReplayError, match=r"parameter/fc1\.weight was changed .*before step 0"):
        run.step([0, 1])
    own = parts(norm=True)
    run = begin(None, own=own)
    go_on(run, 1)
    own["model"](own["data"][0])
    with pytest.raises(pk.ReplayError, match=r"buffer/1\..* was changed .*before step 1.*train"):
        go_on(run, 2)
    assert len(run) == 1


@pytest.mark.parametrize("way", ["adam", "statistics", "accumulated", "kept"])
def test_training_is_the_same_with_and_without_the_check(way, tmp_path, monkeypatch):
    replays = []
    repeat = Replay.repeat
    monkeypatch.setattr(Replay, "repeat", lambda *a: [replays.append(a[1]), repeat(*a)][1])
    ends, numbers = [], []
    for check in (True, False):
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        random.seed(5)
        own = parts(norm=way == "statistics")
        folder = tmp_path / f"{check}" if way == "kept" else None
        cut = (lambda batch: list(batch.split(2))) if way == "accumulated" else (lambda b: b)
        run = go_on(begin(folder, own=own, check=check, every=3), 30, cut)
        ends.append(state(run))
        numbers.append((torch.rand(1).item(), np.random.rand(), random.random()))  # noqa: NPY002
        if folder:
            run.close()
    assert replays == [0, 3]
    assert same(*ends)
    assert numbers[0] == numbers[1]
    if way == "kept":
        for name in ("manifest.json", "steps.jsonl"):
            one, other = ((tmp_path / f"{c}" / name).read_bytes() for c in (True, False))
            assert one == other


def test_without_the_check_a_fault_is_recorded_all_the_same():
    run = begun(Wrong("counter"), check=False)
    for _ in range(3):
        run.step(range(12))
    with pytest.raises(pk.ReplayError, match="replayed differently"):
        run.verify()
