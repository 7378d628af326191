"""What does not move is kept once: in the checkpoints, and in the memory of a replay."""

import copy

import pytest
import torch
from recording_worker import begin, go_on, parts, plain, reopen, same, state
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import pkbook as pk
from pkbook.basics.files import write_checked

WIDE = 40


class Adapted(nn.Module):
    """A frozen layer with a low-rank correction, and buffers of all kinds."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(WIDE, WIDE).requires_grad_(False)
        self.down = nn.Linear(WIDE, 1, bias=False)
        self.up = nn.Linear(1, 1, bias=False)
        self.register_buffer("grid", torch.full((WIDE,), float("-inf")))
        self.register_buffer("sign", torch.zeros(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("wheel", torch.zeros(WIDE))
        with torch.no_grad():
            for n, p in enumerate(self.parameters()):
                nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(n))

    def forward(self, x):
        if self.training:
            self.calls += 1
            if self.calls == 5:
                self.sign.neg_()  # to -0., which is equal to 0. and has other bits
            self.wheel.copy_((self.calls % 4).float().expand(WIDE))
        return self.up(self.down(self.base(x) + x)) * (1 + 0.01 * self.wheel.sum())


def adapted(make=Adapted, **options):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(12, WIDE, generator=generator)
    model = make()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.01)
    own = {"model": model, "loss": pk.losses.squared, "optimizer": optimizer}
    return own | {"data": (x, x[:, :1]), "scheduler": None}


MOVE = {"parameter/down.weight", "parameter/up.weight", "buffer/calls"} | {
    f"optimizer/{layer}.weight/{key}"
    for layer in ("down", "up")
    for key in ("step", "exp_avg", "exp_avg_sq")
}


def held(path):
    with safe_open(path, "pt") as file:
        return set(file.keys())


def test_a_checkpoint_file_holds_what_has_moved_and_nothing_else(tmp_path):
    """The bytes are those of its tensors; the file's header, its only other part, is short."""
    go_on(begin(tmp_path / "run", every=2, own=adapted()), 12).close()
    files = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert len(files) == 7
    assert held(files[0]) >= {f"parameter/base.{n}" for n in ("weight", "bias")} | {"buffer/grid"}
    wheel, sign = {"buffer/wheel"}, {"buffer/sign"}
    expected = [MOVE | wheel, MOVE | wheel, *[MOVE | wheel | sign] * 4]
    # At calls 4 and 8 the wheel stands as at step 0; once it was seen to move, it is kept.
    assert [held(path) for path in files[1:]] == expected
    for path in files[1:]:
        bytes_held = sum(t.numel() * t.element_size() for t in load_file(path).values())
        assert path.stat().st_size - bytes_held < 1500
        assert bytes_held < 0.25 * files[0].stat().st_size


def test_in_memory_it_is_kept_once_as_well():
    run = go_on(begin(None, every=2, own=adapted()), 12)
    for k in range(2, 13, 2):
        kept = set(run.store.checkpoints[k])
        assert kept - {"buffer/wheel", "buffer/sign"} == MOVE
        assert ("buffer/wheel" in kept) == (k % 4 != 0)
        assert ("buffer/sign" in kept) == (k >= 6)
    first = run.store.load(0)["parameter/base.weight"]
    assert run.store.load(6)["parameter/base.weight"] is first


@pytest.mark.parametrize("kept", [True, False], ids=["folder", "memory"])
def test_every_moment_is_that_of_the_plain_loop(tmp_path, kept):
    seen = plain(12, own=adapted())
    run = go_on(begin(tmp_path / "run" if kept else None, every=2, own=adapted()), 12)
    for k, (tensors, _) in enumerate(seen):
        there = run.model_at(k).state_dict()
        assert all(bits(there[n]) == bits(tensors[n]) for n in there), k
    assert run.verify() == 0
    run.close()
    if kept:
        other = adapted()
        nn.init.normal_(other["model"].base.weight)
        with reopen(tmp_path / "run", other) as again:
            tensors, _ = state(again)
            assert all(bits(t) == bits(seen[-1][0][n]) for n, t in tensors.items())


def bits(t):
    return t.contiguous().numpy().tobytes()


def test_a_folder_of_whole_checkpoints_goes_on_to_be_read(tmp_path):
    """As all folders were before: each checkpoint holds everything."""
    seen = plain(20)
    go_on(begin(tmp_path / "run", every=4), 12).close()
    names = [n for n, _ in parts()["model"].named_parameters()]
    for k in (4, 8, 12):
        (path,) = tmp_path.glob(f"run/checkpoints/{k:09d}-*")
        path.unlink()
        tensors = seen[k][0]
        full = {f"parameter/{n}": tensors[n] for n in names}
        full |= {f"optimizer/{n}": t for n, t in tensors.items() if n not in names}
        write_checked(path.parent, f"{k:09d}", full)
    with reopen(tmp_path / "run") as run:
        assert same(state(go_on(run, 20)), seen[20])
        assert run.verify() == 0


def test_a_tensor_that_is_nowhere_is_damage(tmp_path):
    go_on(begin(tmp_path / "run", every=4, own=adapted()), 6).close()
    (path,) = tmp_path.glob("run/checkpoints/000000000-*")
    tensors = load_file(path)
    del tensors["parameter/base.bias"]
    path.unlink()
    write_checked(path.parent, "000000000", tensors)
    with pytest.raises(ValueError, match=r"another model: parameter/base\.bias is missing there"):
        reopen(tmp_path / "run", adapted())


@pytest.mark.parametrize("k", [8, 10, 11], ids=lambda k: f"before step {k}")
def test_frozen_parameters_changed_behind_the_recordings_back_are_noticed(k):
    """Checkpoints of steps 0, 5 and 10; what the reader wrote is not undone."""
    run = go_on(begin(None, own=adapted(), check=False), k)
    with torch.no_grad():
        run.model.base.weight.add_(0.1)
    wrong = run.model.base.weight.clone()
    go_on(run, 12)
    for ask in (run.verify, lambda: run.interpolate(run.x[:2])):
        with pytest.raises(pk.ReplayError, match="replayed differently"):
            ask()
        assert torch.equal(run.model.base.weight, wrong)


def test_a_replay_shares_them_with_the_model_and_a_readers_copy_does_not():
    run = go_on(begin(None, own=adapted()), 12)
    mine = run.model.base.weight
    for part in run.segments_backwards():
        assert part.model.base.weight.data_ptr() == mine.data_ptr()
        assert part.model.down.weight.data_ptr() != run.model.down.weight.data_ptr()
    assert run.model_at(7).base.weight.data_ptr() != mine.data_ptr()


class Follower(Adapted):
    """A frozen layer that follows a trained one, as momentum encoders do."""

    def __init__(self):
        super().__init__()
        self.follower = nn.Parameter(torch.zeros(1, WIDE), requires_grad=False)
        self.register_buffer("begun", torch.zeros(()))

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.follower.mul_(0.9).add_(0.1 * self.down.weight)
        return super().forward(x) + 0.1 * (x @ self.follower.T)


@pytest.mark.parametrize("every", [3, 50])
def test_a_frozen_parameter_that_forward_moves_is_replayed_and_left_alone(every):
    seen = plain(8, own=adapted(Follower))
    run = go_on(begin(None, every=every, own=adapted(Follower)), 8)
    before = copy.deepcopy(run.model.state_dict())
    assert run.verify() == 0
    for k in (0, 4, 8):
        assert torch.equal(run.model_at(k).follower, seen[k][0]["follower"])
    assert all(bits(before[n]) == bits(t) for n, t in run.model.state_dict().items())
