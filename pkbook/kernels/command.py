r"""A gradient kernel from the command line, in one process or several.

    torchrun --nproc-per-node 2 -m pkbook kernel --model my_models:trained \
        --x1 test.safetensors --x2 train.safetensors --out kernel.safetensors

Without ``torchrun`` (``python -m pkbook kernel ...``) it is one process.  ``-m pkbook.gram``, the
name before, goes on.
``my_models:trained`` is a function that is called without arguments and returns the model.  The
kernel is written by rank 0, whole or not at all.  From Python: :func:`distributed_kernel`.
"""

import argparse
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_file
from torch import Tensor, nn

from pkbook.basics.command_line import (
    joined,
    leave,
    load_function,
    load_tensor,
    number_of_bytes,
    number_of_seconds,
    place,
    reported,
)
from pkbook.basics.files import require_new_file, written_whole
from pkbook.basics.fingerprints import digest
from pkbook.basics.processes import Processes, RankError
from pkbook.basics.version import __version__
from pkbook.kernels.distributed import Shard, distributed_kernel
from pkbook.kernels.gram import REDUCTIONS

__all__ = ["RankError", "Shard", "distributed_kernel", "main"]

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def build_model(spec: str, seed: int) -> nn.Module:
    """Call ``module:function``; the seed makes a fresh initialisation the same on all processes."""
    make = load_function(spec, "--model", "pkbook.models:mnist_cnn")
    torch.manual_seed(seed)
    model = make()
    if not isinstance(model, nn.Module):
        raise TypeError(f"--model {spec} must return a torch.nn.Module, got {type(model).__name__}")
    return model


def load_weights(model: nn.Module, path: str, cast: bool) -> None:
    """Load a state dict, strictly; another floating-point type only where a cast was asked for."""
    try:
        state = model.state_dict()
        with safe_open(path, framework="pt") as f:
            for name in f.keys():
                own, stored = state.get(name), f.get_tensor(name).dtype
                if own is not None and own.dtype != stored and not cast:
                    raise ValueError(
                        f"--weights {path}: {name!r} has dtype {stored}, the model {own.dtype}; "
                        f"write --dtype {str(stored).removeprefix('torch.')}"
                    )
        load_model(model, path, strict=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ValueError(f"--weights {path} do not fit the model: {error}") from error


def _prepared(
    args: argparse.Namespace, device: torch.device
) -> tuple[nn.Module, Tensor, Tensor | None]:
    """The model in eval mode and both inputs, in the wanted type on the device."""
    require_new_file(Path(args.out), "--out")
    dtype = DTYPES.get(args.dtype)
    model = build_model(args.model, args.seed).to(device=device, dtype=dtype).eval()
    if args.weights:
        load_weights(model, args.weights, dtype is not None)

    def read(path: str, argument: str) -> Tensor:
        x = load_tensor(path, argument).to(device)
        return x.to(dtype) if dtype is not None and x.is_floating_point() else x

    return model, read(args.x1, "--x1"), None if args.x2 is None else read(args.x2, "--x2")


def write_kernel(path: Path, kernel: Tensor, about: dict[str, str]) -> None:
    """Write, flush to disk, rename: the file is whole or it is not there."""
    with written_whole(path) as partial:
        save_file({"kernel": kernel.cpu().contiguous()}, partial, metadata=about)


def compute(args: argparse.Namespace, device: torch.device) -> None:
    """What one rank does: read, agree and compute with the others; rank 0 writes."""
    processes = Processes(None, args.timeout, device)
    model, x1, x2 = processes.together("reading its files", lambda: _prepared(args, device))
    kernel = distributed_kernel(
        model, x1, x2, reduce=args.reduce, memory=args.memory, gather="first", timeout=args.timeout
    )

    def write() -> None:
        if kernel is not None:  # on rank 0 alone
            about = {"model": args.model, "reduce": args.reduce, "pkbook": __version__}
            about |= {"x1": digest(x1), "x2": digest(x1 if x2 is None else x2)}
            write_kernel(Path(args.out), kernel, about)
            shape = " x ".join(map(str, kernel.shape))
            print(
                f"{args.out}: {shape}, {kernel.dtype}, by {processes.size} process(es)", flush=True
            )

    processes.together("writing the kernel", write)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pkbook kernel",
        description="Gradient kernel of a model on two sets of inputs.",
    )
    add = parser.add_argument
    add("--model", required=True, help="module:function, called without arguments")
    add("--weights", help="safetensors file with the model's state dict")
    add("--seed", type=int, default=0, help="seed before the model is made (default 0)")
    add("--x1", required=True, help="safetensors file with one tensor, or one named x")
    add("--x2", help="the same for the other side (default: x1, a symmetric kernel)")
    add("--out", required=True, help="safetensors file to be written; must not exist")
    add("--reduce", choices=REDUCTIONS, default="trace")
    add("--dtype", choices=DTYPES, help="cast model and inputs (default: leave them)")
    add("--device", default="cpu", help="cpu (default), cuda (one GPU a process) or cuda:0")
    add("--memory", type=number_of_bytes, help="bytes for each process, as 500M or 2G")
    add("--timeout", type=number_of_seconds, default=600.0,
        help="seconds to wait for another process (default 600)")  # fmt: skip
    return parser


def _work(args: argparse.Namespace) -> None:
    device = place(args.device)
    with joined("nccl" if device.type == "cuda" else "gloo", args.timeout):
        compute(args, device)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code, with a message on stderr where it is not 0."""
    return reported("pkbook kernel", _work, _parser().parse_args(argv))


if __name__ == "__main__":
    leave(main())
