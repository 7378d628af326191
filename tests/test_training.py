"""Training for experiments: the same to the last bit, whether interrupted or not."""

import pytest
import torch

from pkbook.basics.files import write_checked
from pkbook.lab.experiments.machinery.training import channels_last, fit, remembered
from pkbook.problems import losses, models

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(24, 1, 28, 28, generator=GENERATOR), torch.arange(24) % 10


def run(epochs, keep=None, stop=None, activation="relu", optimizer=torch.optim.Adam):
    model = models.mnist_cnn(activation, seed=1)
    ends = {}
    steps = fit(
        model,
        losses.cross_entropy,
        optimizer(model.parameters(), lr=1e-3),
        (X, Y),
        epochs=epochs,
        batch=8,
        seed=4,
        keep=keep,
    )
    for epoch in steps:
        assert not model.training
        ends[epoch] = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        if epoch == stop:
            break
    return ends


def test_an_interrupted_run_ends_as_a_whole_one(tmp_path):
    whole = run((0, 1, 3))
    run((0, 1, 3), keep=tmp_path, stop=1)
    resumed = run((0, 1, 3), keep=tmp_path)
    assert all(torch.equal(whole[e], resumed[e]) for e in (0, 1, 3))
    assert not torch.equal(whole[1], whole[3])
    assert all(torch.equal(whole[e], loaded) for e, loaded in run((0, 1, 3), tmp_path).items())


def test_stops_do_not_change_where_training_goes():
    assert torch.equal(run((3,))[3], run((0, 1, 2, 3))[3])


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    run((1,))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_state_of_another_network_is_refused(tmp_path):
    write_checked(tmp_path, "epoch0", {"parameter/weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="another network"):
        run((0,), keep=tmp_path)


def test_what_an_earlier_version_pickled_is_refused(tmp_path):
    torch.save({"model": {}, "optimizer": {}}, tmp_path / "epoch0.pt")
    with pytest.raises(ValueError, match=r"epoch0\.pt must be a safetensors file.*begins anew"):
        run((0,), keep=tmp_path)
    with pytest.raises(ValueError, match="which pickled"):
        remembered(tmp_path / "epoch0", dict)


def test_nothing_is_pickled(tmp_path):
    run((0, 1), keep=tmp_path)
    remembered(tmp_path / "part-0.5", lambda: {"a": torch.zeros(1)})
    kinds = {file.suffix for file in tmp_path.iterdir()}
    assert kinds == {".safetensors"}


def test_convolutions_laid_out_for_the_cpu_are_taken_up_to_the_last_bit(tmp_path):
    def end(keep=None, stop=None):
        model = channels_last(models.mnist_cnn(seed=1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        steps = fit(model, losses.cross_entropy, optimizer, (X, Y), epochs=(0, 1, 2), batch=8,
                    seed=4, keep=keep)  # fmt: skip
        for epoch in steps:
            if epoch == stop:
                break
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    end(tmp_path, stop=1)
    assert torch.equal(end(tmp_path), end())


def test_a_damaged_file_is_refused(tmp_path):
    remembered(tmp_path / "part", lambda: {"a": torch.zeros(3)})
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        remembered(tmp_path / "part", dict)


@pytest.mark.parametrize("epochs", [(), (1, 0), (0, 0), (-1, 2)])
def test_epochs_must_increase(epochs):
    with pytest.raises(ValueError, match="increasing"):
        run(epochs)


def test_a_batch_larger_than_the_data_is_refused():
    model = models.mlp(1, 1)
    data = torch.zeros(3, 1), torch.zeros(3, 1)
    with pytest.raises(ValueError, match="at most the 3 samples"):
        next(fit(model, losses.squared, None, data, epochs=(1,), batch=4, seed=0))


def test_divergence_names_the_epoch():
    model = models.mlp(1, 1, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e20)
    data = torch.ones(4, 1), torch.zeros(4, 1)

    def squares(f, y):
        return (f - y).square().mean()

    with pytest.raises(FloatingPointError, match=r"epoch [12];"):
        list(fit(model, squares, optimizer, data, epochs=(5,), batch=2, seed=0))


def test_remembered_tensors_are_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"a": torch.arange(3)}

    for _ in range(2):
        assert remembered(tmp_path / "part" / "a", make)["a"].tolist() == [0, 1, 2]
    assert len(made) == 1
    remembered(None, make)
    assert len(made) == 2
