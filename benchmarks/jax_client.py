"""Our side of the conversation with :mod:`benchmarks.peer_jax` in another Python."""

import json
import select
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import memory
from benchmarks.cases import Problem

SCRIPT = Path(__file__).with_name("peer_jax.py")


def describe(model: nn.Sequential) -> tuple[list[dict], dict[str, np.ndarray]]:
    """The layers in order, and their arrays; dropout is nothing in eval mode."""
    layers: list[dict] = []
    arrays: dict[str, np.ndarray] = {}
    for module in model:
        k = len(layers)
        if isinstance(module, nn.Linear | nn.Conv2d):
            arrays |= {
                f"w{k}": module.weight.detach().numpy(),
                f"b{k}": module.bias.detach().numpy(),
            }
        match module:
            case nn.Linear():
                layers.append({"kind": "linear"})
            case nn.Conv2d():
                layers.append({"kind": "conv", "padding": list(module.padding)})
            case nn.MaxPool2d():
                layers.append({"kind": "pool", "size": module.kernel_size})
            case nn.Flatten() | nn.Tanh() | nn.ReLU():
                layers.append({"kind": type(module).__name__.lower()})
            case nn.Dropout():
                pass
            case _:
                raise ValueError(f"no translation for {type(module).__name__}")
    return layers, arrays


class JaxMethod:
    """A method of neural-tangents for one problem; a context manager that ends its process."""

    def __init__(self, python: str, problem: Problem, method: str, threads: int, timeout: float):
        self.python, self.problem, self.timeout = python, problem, timeout
        self.folder = tempfile.TemporaryDirectory()
        layers, arrays = describe(problem.model)
        arrays["x1"] = problem.x1.numpy()
        if problem.x2 is not None:
            arrays["x2"] = problem.x2.numpy()
        path = Path(self.folder.name) / "case.npz"
        np.savez(path, **arrays)
        self.request = {
            "data": str(path),
            "layers": layers,
            "method": method,
            "outputs": problem.case.outputs,
            "reduce": problem.case.reduce,
            "threads": threads,
        }
        self.process: subprocess.Popen | None = None

    def memory(self) -> dict:
        """Peak memory of one run in a process of its own."""
        request = self.request | {"memory": True}
        return memory.measure([self.python, str(SCRIPT)], request, self.timeout)

    def start(self) -> dict:
        """Start the worker; its versions and the time of its first, compiling call."""
        self.process = subprocess.Popen(
            [self.python, str(SCRIPT), json.dumps(self.request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self._answer()

    def _answer(self) -> dict:
        ready, _, _ = select.select([self.process.stdout], [], [], self.timeout)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            raise RuntimeError("no answer from neural-tangents")
        return json.loads(line)

    def seconds(self) -> float:
        """Time of one run, measured by the worker."""
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def result(self) -> Tensor:
        """The kernel of the first run."""
        return torch.from_numpy(np.load(Path(self.folder.name) / "result.npy"))

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                pipe.close()
        self.folder.cleanup()
