"""``python -m pkbook``: what a folder holds, whether it is whole, and predictions taken apart.

torchrun starts the ranks; gloo stays on the loopback device.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import pkbook as pk
from pkbook.__main__ import COMMANDS, main as pkbook_main
from pkbook.interpolation.command import main

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
needs_loopback = pytest.mark.skipif(
    not Path("/sys/class/net/lo").exists(), reason="the loopback device is not called lo here"
)

TRAINING = '''
import os, signal, sys
import torch
import pkbook as pk

def setup(lr=0.05, width=6):
    x, y = pk.data.ring_and_disk(20)
    model = pk.models.mlp(2, width, 1, activation="tanh", seed=0)
    sgd = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return model, pk.losses.squared, sgd, (x, y)

def named():
    names = ("model", "loss", "optimizer", "data")
    return dict(zip(names, setup())) | {"clip_norm": None}

def other_data():
    *rest, (x, y) = setup()
    return *rest, (x + 1, y)

def wider():
    return setup(width=7)

def lacking():
    return {name: value for name, value in named().items() if name != "data"}

def writing():
    return named() | {"read_only": False}

def model_only():
    return setup()[0]

def failing():
    return 1 / 0

def changed():
    """A loss that is not the one recorded."""
    model, _, sgd, data = setup()
    return model, pk.losses.logistic, sgd, data

def before_each_chunk(what):
    """Call ``what`` with the rank and the first query of each chunk that is begun."""
    question = sys.modules["pkbook.interpolation.question"].Question
    answer = question.answer
    def watched(self, rows, progress):
        what(os.environ["RANK"], rows.start)
        return answer(self, rows, progress)
    question.answer = watched
    return setup()

def noting():
    """Write down which rank takes which queries apart."""
    def note(rank, start):
        with open(f"rank-{rank}.txt", "a") as f:
            f.write(f"{start} ")
    return before_each_chunk(note)

def killed():
    """Rank 1 is killed in its second chunk."""
    def kill(rank, start):
        if rank == "1" and start >= 4:
            os.kill(os.getpid(), signal.SIGKILL)
    return before_each_chunk(kill)

def failing_late():
    """Rank 1 fails in its second chunk."""
    def fail(rank, start):
        if rank == "1" and start >= 4:
            raise MemoryError("no room")
    return before_each_chunk(fail)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a recorded run, the module that made it and queries; the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "training.py").write_text(TRAINING)
    import training

    with pk.Trajectory(*training.setup(), folder="run", every=5) as run:
        for batch in pk.batches(20, size=6, steps=12, seed=0):
            run.step(batch)
    queries = torch.randn(7, 2, generator=torch.Generator().manual_seed(3))
    save_file({"anything": queries}, "q.safetensors")
    save_file({"x": torch.zeros(7, dtype=torch.int64)}, "zeros.safetensors")
    save_file({"a": queries, "b": queries + 1}, "two.safetensors")
    save_file({"x": queries.double()}, "double.safetensors")
    yield tmp_path
    sys.modules.pop("training", None)


def _arguments(setup="training:setup", **more):
    options = {"setup": setup, "queries": "q.safetensors", "out": "told"} | more
    named = [s for k, v in options.items() if v not in (None, True)
             for s in (f"--{k.replace('_', '-')}", str(v))]  # fmt: skip
    return ["explain", "run", *named, *(f"--{k}" for k, v in options.items() if v is True)]


def _whole():
    import training

    return pk.Trajectory.open("run", *training.setup(), read_only=True)


def content(folder):
    """The bytes of every file but the lock."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()
            and p.name != "writer.lock"}  # fmt: skip


def spoil(path, place=0.5):
    raw = bytearray(path.read_bytes())
    raw[int(place * len(raw))] ^= 0x04
    path.write_bytes(raw)


def test_explain_is_that_of_the_package(folder, capsys):
    assert main(_arguments(chunk=3, layers=True, nodes=2, tolerance="none", top=2)) == 0
    out, err = capsys.readouterr()
    assert "told: 7 queries, 1 output(s) of each, by 20 samples, in chunks of 3, by 1 pro" in out
    assert err == ""
    kept = pk.Explanation.open("told")
    pk.explain(
        _whole(),
        torch.randn(7, 2, generator=torch.Generator().manual_seed(3)),
        folder="again", chunk=3, layers=True, nodes=2, tolerance=None,
    )  # fmt: skip
    assert content(folder / "told") == content(folder / "again")
    lines = re.findall(r"^query (\d), output 0: (\S+) -> (\S+), gap", out, re.MULTILINE)
    assert [int(number) for number, _, _ in lines] == list(range(7))
    shares = re.findall(r"^  sample (\d+): ([+-]\S+)$", out, re.MULTILINE)
    assert len(shares) == 14
    for i, (_, before, after) in enumerate(lines):
        assert float(before) == pytest.approx(kept.initial[i].item(), rel=1e-3)
        assert float(after) == pytest.approx(kept.final[i].item(), rel=1e-3)
        samples, values = kept.top(2, i)
        assert [int(sample) for sample, _ in shares[2 * i : 2 * i + 2]] == samples.tolist()
        told = [float(share) for _, share in shares[2 * i : 2 * i + 2]]
        assert told == pytest.approx(values.tolist(), rel=1e-3)


@pytest.mark.parametrize(
    ("words", "outputs"),
    [("all", "all"), ("0", 0), ("0,-1,0,0,0,0,0", 0), ("zeros.safetensors", 0)],
)
def test_the_ways_to_name_outputs(folder, words, outputs):
    assert main(_arguments("training:named", outputs=words)) == 0
    manifest = pk.Explanation.open("told").manifest
    assert (manifest["outputs"], manifest["width"]) == (outputs, 1)


def test_the_options_reach_the_package(folder, capsys):
    options = {"rule": "riemann", "nodes": 4, "tolerance": 0.5, "most_pieces": 7, "layers": True}
    assert main(_arguments(memory="1M", progress=True, **options)) == 0
    manifest = pk.Explanation.open("told").manifest
    assert manifest["options"] == options | {"entries": []}
    assert manifest["chunk"] == 7
    assert "steps taken apart: 100%" in capsys.readouterr().err


def test_the_run_may_be_written_meanwhile(folder):
    import training

    with pk.Trajectory.open("run", *training.setup()):
        assert main(_arguments()) == 0
        assert main(["info", "run"]) == main(["verify", "run", "--setup", "training:setup"]) == 0


def test_info_says_what_a_folder_holds(folder, capsys):
    assert main(["info", "run"]) == 0
    told = capsys.readouterr().out
    for fact in (
        "run: a recorded run",
        "pkbook 0.1.0, torch",
        "samples       20 (",
        "25 in 4 tensors, 25 of them trained",
        "optimizer     SGD\n",
        "steps         12\n",
        "batches       6 samples",
        "learning rate 0.05\n",
        "checkpoints   3, every 5 steps, the last at 10",
    ):
        assert fact in told, fact
    size = sum(p.stat().st_size for p in Path("run").rglob("*") if p.is_file())
    assert f"on disk       {size / 1024:.4g} KiB" in told
    main(_arguments(chunk=3, tolerance="none"))
    capsys.readouterr()
    assert main(["info", "told"]) == 0
    told = capsys.readouterr().out
    for fact in (
        "told: an explanation\n",
        "12 steps of SGD, 20 samples, 25 parameters",
        "queries       7 (torch.float32 [7, 2]",
        "outputs       all (1 of each query)",
        "rule gauss, nodes 3, tolerance None",
        "3 of 3 are there, 3 queries each",
    ):
        assert fact in told, fact
    next(Path("told/chunks").iterdir()).unlink()
    main(["info", "told"])
    told = capsys.readouterr().out
    assert "told: an explanation, not finished\n" in told
    assert "2 of 3 are there" in told


def test_verify_passes_what_is_whole(folder, capsys):
    assert main(["verify", "run"]) == 0
    assert capsys.readouterr().out == "run: 12 steps and 3 checkpoints are whole\n"
    assert main(["verify", "run", "--setup", "training:named"]) == 0
    told = capsys.readouterr().out
    assert "replay: 12 steps, bit for bit\n" in told
    gap = float(re.search(r"completeness: at most (\S+) at samples \[0, 9, 19\]", told)[1])
    assert 0 < gap <= 1e-3
    main(_arguments(chunk=3))
    capsys.readouterr()
    assert main(["verify", "told"]) == 0
    assert "told: all chunks are whole, 7 queries, gap at most" in capsys.readouterr().out


def test_verify_names_everything_that_is_damaged(folder, capsys):
    checkpoints = sorted(Path("run/checkpoints").iterdir())
    for path in checkpoints[:2]:
        spoil(path)
    spoil(Path("run/steps.jsonl"))
    assert main(["verify", "run"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "3 damaged or missing" in err
    assert "steps.jsonl: the line of step" in err
    assert all(f"{path.name} is damaged" in err for path in checkpoints[:2])
    assert checkpoints[2].name not in err


def test_verify_names_what_is_damaged_in_an_explanation(folder, capsys):
    main(_arguments(chunk=3))
    first, second, _ = sorted(Path("told/chunks").iterdir())
    spoil(first)
    second.unlink()
    assert main(["verify", "told"]) == 1
    err = capsys.readouterr().err
    assert "2 damaged or missing" in err
    assert f"{first.name} is damaged" in err
    assert "chunk 1 is not there" in err
    spoil(Path("told/manifest.json"))
    for command in ("verify", "info"):
        assert main([command, "told"]) == 1
        assert "manifest.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("cut", [1, 30])
def test_verify_names_a_torn_log(folder, capsys, cut):
    log = Path("run/steps.jsonl")
    log.write_bytes(log.read_bytes()[:-cut])
    assert main(["verify", "run"]) == 1
    assert "steps.jsonl: the last line is not whole" in capsys.readouterr().err


def test_verify_replays_what_the_checksums_cannot_tell(folder, capsys):
    assert main(["verify", "run", "--setup", "training:changed"]) == 1
    assert "ReplayError: steps 10 to 12 replayed differently" in capsys.readouterr().err


def test_verify_says_how_far_a_replay_is_off(folder, capsys, monkeypatch):
    monkeypatch.setattr(pk.Trajectory, "verify", lambda _: 0.25)  # recorded on another machine, say
    assert main(["verify", "run", "--setup", "training:setup"]) == 0
    assert "replay: 12 steps, off by 0.25\n" in capsys.readouterr().out


@pytest.mark.filterwarnings("always::UserWarning")
def test_verify_demands_that_the_sums_close(folder, capsys, monkeypatch):
    monkeypatch.setattr("pkbook.interpolation.folders.TOLERANCE", 1e-12)
    assert main(["verify", "run", "--setup", "training:setup"]) == 1
    warning, error = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: the tolerance 1e-12 was not reached for queries [0, 1, 2]")
    assert error.endswith("of the change unexplained, more than 1e-12")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"setup": "training"}, "--setup must be module:function, got 'training'"),
        ({"setup": "nowhere_at_all:f"}, "--setup nowhere_at_all:f: No module named"),
        ({"setup": "training:nothing"}, "--setup training:nothing: module 'training' has no"),
        ({"setup": "training:os"}, "--setup training:os must be a function, got module"),
        ({"setup": "training:failing"}, "failed: ZeroDivisionError: division by zero (training.py"),
        ({"setup": "training:model_only"}, "must return (model, loss, optimizer, data) or a dict"),
        ({"setup": "training:lacking"}, "clip_value; it has no data"),
        ({"setup": "training:writing"}, "it has an unknown 'read_only'"),
        ({"setup": "training:other_data"}, "was recorded with another data"),
        ({"setup": "training:wider"}, "was recorded with another parameters"),
        ({"queries": "none.safetensors"}, "--queries none.safetensors cannot be read"),
        ({"queries": "training.py"}, "--queries training.py cannot be read as safetensors"),
        ({"queries": "two.safetensors"}, "must hold one tensor, or one that is named 'x'"),
        ({"queries": "double.safetensors"}, "x must have the model's dtype torch.float32"),
        ({"queries": "zeros.safetensors"}, "ValueError: model cannot be applied to x"),
        ({"outputs": "one"}, "--outputs must be all, a number, numbers with commas"),
        ({"outputs": "0,1"}, "one int per query [7], got shape (2,)"),
        ({"outputs": "1"}, "outputs must lie in 0..0 for this model, got 1"),
        ({"memory": "1"}, "memory must hold one query"),
        ({"out": "run"}, "folder 'run' holds 'checkpoints' and is no explanation"),
        ({"out": "training.py"}, "it is a file itself"),
    ],
)
def test_bad_command_lines_end_with_a_message(folder, capsys, changes, message):
    before = content(folder)
    assert main(_arguments(**changes)) == 1
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("pkbook explain: ")
    assert "Traceback" not in err
    assert out == ""
    del before[Path("run/manifest.json")], before[Path("training.py")]
    assert before.items() <= content(folder).items()
    assert not list(folder.rglob("told"))


@pytest.mark.parametrize("command", ["info", "verify"])
@pytest.mark.parametrize("where", ["nowhere", ".", "training.py"])
def test_a_folder_of_something_else_is_said_to_be_none(folder, capsys, command, where):
    assert main([command, where]) == 1
    assert "holds no trajectory (no manifest.json)" in capsys.readouterr().err


def test_a_setup_with_an_explanation_is_refused(folder, capsys):
    main(_arguments())
    assert main(["verify", "told", "--setup", "training:setup"]) == 1
    assert "--setup is for the folder of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["show", "run"], "invalid choice: 'show'"),
        (["info"], "FOLDER"),
        (["info", "run", "--setup", "training:setup"], "--setup"),
        (["explain", "run"], "--setup, --queries, --out"),
        *(
            (_arguments(**{word: "-lots"}), f"--{word.replace('_', '-')}")
            for word in ("rule", "nodes", "tolerance", "most_pieces", "chunk", "memory", "top",
                         "timeout")
        ),
        (_arguments(tolerance="-1"), "tolerance (a positive number or none)"),
        (_arguments(chunk="0"), "--chunk"),
    ],
)  # fmt: skip
def test_words_that_are_no_choice_are_refused(folder, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(OSError("no space"), 1), (KeyboardInterrupt(), 130)])
def test_a_full_disk_or_an_interrupt_keeps_what_is_finished(
    folder, capsys, monkeypatch, error, code
):
    module, calls = sys.modules["pkbook.interpolation.chunks"], []
    write = module.write_checked

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise error
        return write(*arguments)

    monkeypatch.setattr(module, "write_checked", fail)
    assert main(_arguments(chunk=3)) == code
    assert ("StorageError: chunk 1" if code == 1 else "Interrupt") in capsys.readouterr().err
    assert pk.Explanation.open("told").missing == [1, 2]
    assert main(_arguments()) == 0
    assert len(calls) == 4
    assert pk.Explanation.open("told").missing == []


def _run(command, **more):
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT)} | more
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def _torchrun(arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=127.0.0.1"]
    return _run([*command, "-m", "pkbook", *arguments])


def test_from_the_shell(folder):
    done = _run([sys.executable, "-W", "error", "-m", "pkbook", "info", "run"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run: a recorded run\n")
    spoil(Path("run/manifest.json"))
    done = _run([sys.executable, "-m", "pkbook", "verify", "run"])
    assert done.returncode == 1
    assert done.stderr.startswith("pkbook verify: ValueError: run/manifest.json is damaged")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_one_command_line_has_every_command(capsys, name):
    _, text = COMMANDS[name]
    with pytest.raises(SystemExit) as stopped:
        pkbook_main([name, "--help"])
    assert stopped.value.code == 0
    own = capsys.readouterr().out
    assert own.startswith(f"usage: python -m pkbook {name} [-h]")
    assert text in own
    with pytest.raises(SystemExit):
        pkbook_main(["--help"])
    assert re.search(rf"^  {name} +{re.escape(text)}$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["show", "run"], "invalid choice: 'show'"),
        (["--setup", "info"], "required: COMMAND"),
    ],
)
def test_one_command_line_refuses_what_is_no_command(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        pkbook_main(arguments)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: python -m pkbook [-h] COMMAND ...")
    assert message in err


def test_one_command_line_hands_its_words_and_the_exit_code_on(folder, capsys):
    for words in (["info", "run"], ["verify", "run"], ["info", "nowhere"]):
        assert pkbook_main(words) == main(words)
        out, err = capsys.readouterr()
        for text in (out, err):
            assert text == 2 * text[: len(text) // 2]
        assert out + err
    spelt_out = [w.replace("--layers", "--by-parameter") for w in _arguments(layers=True)]
    assert pkbook_main(spelt_out) == 0
    assert len(pk.Explanation.open("told")[0].by_parameter) == 4


def test_a_folder_is_told_of_without_the_rooms_of_the_book(folder):
    code = "import sys; from pkbook.__main__ import main; main(['info', 'run']); "
    code += "print([m for m in sys.modules if m.startswith(('pkbook.lab', 'matplotlib'))])"
    done = _run([sys.executable, "-c", code])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "[]"


@needs_loopback
def test_two_processes_write_the_same_bytes_and_share_the_chunks(folder):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun's processes have
    try:
        assert main(_arguments(chunk=2, out="alone")) == 0
        done = _torchrun(_arguments("training:noting", chunk=2, timeout=60))
        assert done.returncode == 0, done.stderr
        assert "by 2 process(es)" in done.stdout
        assert content(folder / "told") == content(folder / "alone")
        assert [Path(f"rank-{rank}.txt").read_text() for rank in (0, 1)] == ["0 4 ", "2 6 "]
    finally:
        torch.set_num_threads(threads)


@needs_loopback
@pytest.mark.parametrize(
    ("setup", "message"),
    [
        ("failing_late", "rank 0: RankError: rank 1 failed while taking its queries apart, so no"),
        ("killed", "SIGKILL"),  # by torchrun, which may end the other before that one speaks
    ],
)
def test_a_rank_that_fails_ends_all_and_keeps_what_is_finished(folder, setup, message):
    done = _torchrun(_arguments(f"training:{setup}", chunk=2, timeout=600))  # longer than we wait
    assert done.returncode == 1
    assert message in done.stderr
    told = pk.Explanation.open("told")
    assert set(told.missing) in ({3}, {2, 3})
    if setup == "failing_late":
        assert told.missing == [3]
        assert "rank 1: MemoryError: no room" in done.stderr
    assert main(_arguments()) == 0  # one process finishes what two began
    told = pk.Explanation.open("told")
    assert told.missing == []
    assert told.verify() <= 1e-3
