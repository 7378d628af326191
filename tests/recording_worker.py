"""What the tests of recorded runs share: a small run, its plain loop, and faults put in on purpose.

As a program it forks a run for each line it reads; the test kills that one.
"""

import errno
import os
import signal
import stat
import subprocess
import sys
import traceback
import warnings
import zlib
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.optim import lr_scheduler as rates

import pkbook as pk

ROOT = Path(__file__).resolve().parents[1]
SAMPLES, TOTAL = 12, 30


def _sequential(optimizer):
    warm = rates.LinearLR(optimizer, 0.1, total_iters=6)
    return rates.SequentialLR(optimizer, [warm, rates.ExponentialLR(optimizer, 0.95)], [6])


SCHEDULES = {
    "cosine": lambda optimizer: rates.CosineAnnealingLR(optimizer, 40),
    "one cycle": lambda optimizer: rates.OneCycleLR(optimizer, 0.1, total_steps=40),
    "sequential": _sequential,
    "lambda": lambda optimizer: rates.LambdaLR(optimizer, lambda k: 0.9**k),
    "steps": lambda optimizer: rates.MultiStepLR(optimizer, [5, 9]),
}


def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, 2, generator=generator)
    return x, x.prod(1, keepdim=True)


def parts(seed=0, kind="AdamW", schedule="cosine", norm=False, **options):
    """What a reader's own code makes before a run; for an opened one, ``seed`` does not matter."""
    # No bias before the statistics: its gradient is rounding, and Adam would magnify it.
    first = nn.Linear(2, 8, bias=not norm)
    second = nn.BatchNorm1d(8) if norm else nn.Tanh()
    model = nn.Sequential(first, second, nn.Dropout(0.2), nn.Linear(8, 1))
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5, generator=generator)
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.05, **options)
    return {
        "model": model, "loss": pk.losses.squared, "optimizer": optimizer, "data": data(),
        "scheduler": schedule and SCHEDULES[schedule](optimizer),
    }  # fmt: skip


def begin(folder, every=5, own=None, **more):
    return pk.Trajectory(**(own or parts()), folder=folder, every=every, **more)


def reopen(folder, own=None, **more):
    return pk.Trajectory.open(folder, **(own or parts(seed=9)), **more)


def opened_or_begun(folder, every=5):
    """The run in the folder; begun anew if it was stopped before its first checkpoint."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*the last line is not whole")
        try:
            return reopen(folder)
        except ValueError as error:
            why = str(error)
    assert "stopped before its first step; record it again" in why or "holds no trajectory" in why
    return begin(folder, every=every)


def batches(total=TOTAL):
    return list(pk.batches(SAMPLES, size=4, steps=total, seed=3))


def go_on(run, total=TOTAL, cut=lambda batch: batch):
    """Train from where the run stands up to step ``total``."""
    for batch in batches(total)[len(run) :]:
        run.step(cut(batch))
    return run


def state(made):
    """Every number that later steps depend on: of a run, or of the parts it was made of."""
    model, optimizer = (
        (made["model"], made["optimizer"])
        if isinstance(made, dict)
        else (made.model, made.optimizer)
    )
    tensors = dict(model.state_dict())
    for name, p in model.named_parameters():
        tensors |= {f"{name}/{key}": t for key, t in optimizer.state.get(p, {}).items()}
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    return {n: t.clone() for n, t in tensors.items() if t is not None}, groups


def same(one, two):
    """Whether two states are equal bit for bit."""
    (tensors, groups), (others, rest) = one, two
    return (
        groups == rest
        and tensors.keys() == others.keys()
        and all(torch.equal(t, others[name]) for name, t in tensors.items())
    )


def plain(total=TOTAL, own=None, cut=lambda batch: batch, clip=None):
    """The states of a loop written without pkbook, before each of its steps and at its end."""
    own = own or parts()
    x, y = own["data"]
    seen = [state(own)]
    for k, batch in enumerate(batches(total)):
        own["optimizer"].zero_grad()
        pieces = cut(batch)
        pieces = pieces if isinstance(pieces, list) else [pieces]
        seed = zlib.crc32(f"0:{k}".encode())
        for j, piece in enumerate(pieces):
            with torch.random.fork_rng():
                torch.manual_seed(zlib.crc32(f"{seed}/{j}".encode()) if j else seed)
                loss = own["loss"](own["model"](x[piece]), y[piece]).mean() / len(pieces)
            loss.backward()
        if clip:
            clip(own["model"].parameters())
        own["optimizer"].step()
        if own["scheduler"]:
            own["scheduler"].step()
        seen.append(state(own))
    return seen


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt():
    raise KeyboardInterrupt


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


class Faults:
    """Let the ``at``-th call that writes fail, a write after half its bytes; count the calls."""

    def __init__(self, at, fail, lasting=False):
        self.at, self.fail, self.lasting, self.calls = at, fail, lasting, 0

    def call(self, half=lambda: None):
        self.calls += 1
        if self.calls == self.at or (self.lasting and self.calls > self.at):
            half()
            self.fail()

    def __enter__(self):
        really = {"open": Path.open, "fsync": os.fsync}

        def opened(path, mode="r", *args, **options):
            if "r" in mode:
                return really["open"](path, mode, *args, **options)
            self.call()
            return _File(really["open"](path, mode, *args, **options), self)

        def fsync(handle):
            if not stat.S_ISDIR(os.fstat(handle).st_mode):  # folders: no system has to
                self.call()
            return really["fsync"](handle)

        self._patches = [
            mock.patch.object(Path, "open", opened),
            mock.patch.object(os, "fsync", fsync),
            mock.patch.object(Path, "replace", self._before(Path.replace)),
            mock.patch.object(Path, "mkdir", self._before(Path.mkdir)),
            mock.patch.object(Path, "unlink", self._before(Path.unlink, ".safetensors")),
        ]
        for patch in self._patches:
            patch.start()
        return self

    def _before(self, function, suffix=""):
        def called(path, *args, **options):
            if path.name.endswith(suffix):
                self.call()
            return function(path, *args, **options)

        return called

    def __exit__(self, *_):
        self.at, self.lasting = 0, False  # for the files that stay open
        for patch in self._patches:
            patch.stop()


class _File:
    """An open file whose writes may fail."""

    def __init__(self, file, faults):
        self.file, self.faults = file, faults

    def write(self, content):
        def half():
            self.file.write(content[: len(content) // 2])
            self.file.flush()

        self.faults.call(half)
        return self.file.write(content)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


class Server:
    """Starts runs in processes of their own, without importing torch anew each time."""

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", __file__],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def start(self, folder, steps, every=5, call=0, background=False):
        """Begin a run, see :func:`serve`; returns the number of its process."""
        self.process.stdin.write(f"{folder}\t{call}\t{every}\t{steps}\t{int(background)}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def ended(self):
        """Wait for the end of that process; how it ended."""
        return int(self.process.stdout.readline())

    def __exit__(self, *_):
        with self.process:
            self.process.stdin.close()
            assert self.process.wait(timeout=60) == 0


def serve():
    """For each line ``FOLDER CALL EVERY STEPS BACKGROUND``: fork a run, say its process, its end.

    The run is killed at its CALL-th call that writes, should it come to it; with CALL 0 it waits at
    its end to be killed.
    """
    for line in sys.stdin:
        folder, call, every, steps, background = line.rstrip("\n").split("\t")
        every = int(every) if every.isdecimal() else every
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # should the test not come to kill it
            try:
                with Faults(int(call), kill):
                    run = begin(folder, every=every, background=background == "1")
                    go_on(run, int(steps))
                    if background == "1":
                        run.close()
                while call == "0":
                    signal.pause()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    go_on(begin(None), 2)  # what torch loads at its first step is loaded before the forks
    serve()
