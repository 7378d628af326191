"""The kernel from the command line: the right file, or a message and no file.

torchrun starts the ranks; gloo stays on the loopback device.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import distributed_worker as worker
import pytest
import torch
from safetensors.torch import load_file, save_file

import pkbook as pk
from pkbook.__main__ import main as pkbook_main
from pkbook.kernels.command import main
from pkbook.kernels.gram import gram

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
needs_loopback = pytest.mark.skipif(
    not Path("/sys/class/net/lo").exists(), reason="the loopback device is not called lo here"
)


def _close(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12 * float(wanted.abs().max()))


DOOMED = '''
import os, signal, time
import pkbook as pk

class Doomed(pk.models.mlp(5, 7, 3).__class__):
    """A model that ends or holds up one rank when the work proper begins."""
    def forward(self, x):
        if len(x) > 2 and os.environ.get("RANK") == "1":
            what()
        return super().forward(x)

def fine():
    return pk.models.mlp(5, 7, 3, activation="tanh")

def doomed():
    model = fine()
    model.__class__ = Doomed
    return model

def killed():
    global what
    what = lambda: os.kill(os.getpid(), signal.SIGKILL)
    return doomed()

def slow():
    global what
    what = lambda: time.sleep(1000)
    return doomed()

def killed_in_sending():
    from pkbook.basics.processes import Processes
    if os.environ["RANK"] == "1":
        Processes.pass_on = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    return fine()

def killed_in_writing():
    if os.environ["RANK"] == "0":
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    return fine()
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a module of models, weights and inputs; the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    model, x1, x2, _, _ = worker.setting("mlp")
    (tmp_path / "doomed.py").write_text(DOOMED)
    save_file({"x": x1}, "a.safetensors")
    save_file({"anything": x2}, "b.safetensors")
    save_file(dict(model.state_dict()), "w.safetensors")
    yield tmp_path
    sys.modules.pop("doomed", None)


def _arguments(model="doomed:fine", **more):
    options = {"model": model, "weights": "w.safetensors", "x1": "a.safetensors"}
    options |= {"x2": "b.safetensors", "out": "k.safetensors", "dtype": "float64"} | more
    return [s for k, v in options.items() if v is not None for s in (f"--{k}", str(v))]


def _torchrun(arguments, processes=2, module=("pkbook.kernels.command",)):
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=127.0.0.1"]
    return subprocess.run(
        [*command, "-m", *module, *arguments],
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def _only_the_inputs(folder):
    return {p.name for p in folder.glob("*.safetensors*")} == {
        f"{name}.safetensors" for name in "abw"
    }


def test_command_line_in_one_process(folder, capsys):
    model, x1, x2, _, _ = worker.setting("mlp")
    assert main(_arguments(reduce="full", memory="2M")) == 0
    _close(load_file("k.safetensors")["kernel"], gram(model, x1, x2, reduce="full"))
    assert "13 x 7 x 3 x 3, torch.float64, by 1 process(es)" in capsys.readouterr().out
    assert main(_arguments(x2=None, out="own.safetensors")) == 0
    _close(load_file("own.safetensors")["kernel"], gram(model, x1))


def test_command_line_with_a_built_in_model(folder):
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    save_file({"x": x}, "digits.safetensors")
    few = {"weights": None, "x1": "digits.safetensors", "x2": None, "dtype": None, "seed": 4}
    with torch.random.fork_rng():
        assert main(_arguments("pkbook.models:mnist_cnn", **few)) == 0
    model = pk.models.mnist_cnn(seed=4).eval()
    assert torch.equal(load_file("k.safetensors")["kernel"], gram(model, x))


def test_kernel_is_a_command_of_the_package(folder, capsys):
    model, x1, x2, _, _ = worker.setting("mlp")
    assert pkbook_main(["kernel", *_arguments(reduce="diagonal")]) == 0
    _close(load_file("k.safetensors")["kernel"], gram(model, x1, x2, reduce="diagonal"))
    capsys.readouterr()
    assert pkbook_main(["kernel", *_arguments()]) == 1
    assert capsys.readouterr().err.startswith("pkbook kernel: ValueError: --out k.safetensors")


@needs_loopback
@pytest.mark.parametrize("module", [("pkbook", "kernel"), ("pkbook.gram",)], ids=" ".join)
def test_torchrun_writes_the_same_kernel(folder, module):
    done = _torchrun(_arguments(x2=None, timeout=60), module=module)
    assert done.returncode == 0, done.stderr
    assert "by 2 process(es)" in done.stdout
    model, x1, _, _, _ = worker.setting("mlp")
    kernel = load_file("k.safetensors")["kernel"]
    _close(kernel, gram(model, x1))
    _close(kernel, kernel.T)


def _two_ranks(arguments):
    """What each of two processes says that nobody watches over, and how it ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "pkbook.kernels.command", *arguments],
            env=ENVIRONMENT | world | {"PYTHONPATH": str(ROOT), "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        return [(p.communicate(timeout=300)[1], p.returncode) for p in ranks]
    finally:
        for p in ranks:
            p.kill()


@needs_loopback
@pytest.mark.parametrize(
    ("model", "dead", "what"),
    [
        ("killed", 1, "computing its tiles"),
        ("killed_in_sending", 1, "collecting the tiles"),
        ("killed_in_writing", 0, "writing the kernel"),
    ],
)
def test_a_rank_that_is_killed_ends_the_other_with_a_message(folder, model, dead, what):
    ends = _two_ranks(_arguments(f"doomed:{model}", timeout=600))  # longer than we wait
    assert ends[dead][1] == -signal.SIGKILL
    said, code = ends[1 - dead]
    assert code == 1
    assert (
        f"rank {1 - dead}: RankError: rank {1 - dead} of 2 lost another rank while {what}" in said
    )
    assert not Path("k.safetensors").exists()
    if model != "killed_in_writing":  # a file that is not whole has another name
        assert _only_the_inputs(folder)


@needs_loopback
@pytest.mark.parametrize(
    ("model", "timeout", "message"),
    [
        ("killed", 600, "SIGKILL"),  # by torchrun, which may end the other before that one speaks
        ("slow", 10, "rank 0: RankError: rank 0 of 2 lost another rank while computing its tiles"),
    ],
)
def test_torchrun_ends_when_a_rank_fails(folder, model, timeout, message):
    done = _torchrun(_arguments(f"doomed:{model}", timeout=timeout))
    assert done.returncode == 1
    assert message in done.stderr
    assert _only_the_inputs(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "doomed"}, "--model must be module:function, got 'doomed'"),
        ({"model": "nowhere_at_all:f"}, "--model nowhere_at_all:f: No module named"),
        ({"model": "doomed:nothing"}, "--model doomed:nothing: module 'doomed' has no attribute"),
        ({"model": "os:getcwd"}, "--model os:getcwd must return a torch.nn.Module, got str"),
        ({"x1": "none.safetensors"}, "--x1 none.safetensors cannot be read"),
        ({"x2": "doomed.py"}, "--x2 doomed.py cannot be read as safetensors"),
        ({"x1": "w.safetensors"}, "--x1 w.safetensors must hold one tensor, or one"),
        ({"weights": "a.safetensors"}, "--weights a.safetensors do not fit the model"),
        ({"dtype": None}, "--weights w.safetensors: 'fc1.bias' has dtype torch.float64"),
        ({"dtype": None, "weights": None}, "x1 must have the model's dtype torch.float32"),
        ({"out": "a.safetensors"}, "--out a.safetensors exists already"),
        ({"out": "no/k.safetensors"}, "--out no/k.safetensors: its folder does not exist"),
        ({"memory": "1"}, "memory must hold"),
    ],
)
def test_bad_command_lines_end_with_a_message_and_no_file(folder, capsys, changes, message):
    assert main(_arguments(**changes)) == 1
    assert message in capsys.readouterr().err
    assert _only_the_inputs(folder)


@pytest.mark.parametrize("word", ["reduce", "dtype", "memory", "timeout", "seed"])
def test_words_that_are_no_choice_are_refused(folder, capsys, word):
    with pytest.raises(SystemExit) as stopped:
        main(_arguments(**{word: "-lots"}))
    assert stopped.value.code == 2
    assert f"--{word}" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(OSError("no space"), 1), (KeyboardInterrupt(), 130)])
def test_a_full_disk_or_an_interrupt_leaves_nothing(folder, capsys, monkeypatch, error, code):
    def fail(*_):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    assert main(_arguments()) == code
    assert type(error).__name__ in capsys.readouterr().err
    assert _only_the_inputs(folder)


def test_without_a_gpu_the_command_says_so(folder, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(_arguments(device="cuda")) == 1
    assert "--device cuda: torch finds no CUDA device" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(folder):
    model, x1, x2, _, _ = worker.setting("mlp")
    assert main(_arguments(device="cuda")) == 0
    torch.testing.assert_close(load_file("k.safetensors")["kernel"], gram(model, x1, x2))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_nccl_on_two_gpus(folder):
    done = _torchrun(_arguments(device="cuda", x2=None, timeout=60))
    assert done.returncode == 0, done.stderr
    model, x1, _, _, _ = worker.setting("mlp")
    torch.testing.assert_close(load_file("k.safetensors")["kernel"], gram(model, x1))
