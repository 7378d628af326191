"""One product of a kernel with a vector: `pkbook.kernel_operator`, and torch.func in a plain loop.

    python benchmarks/products.py

Median milliseconds of processor time, in turns, on one thread.  The loop is what one writes
oneself: `vjp` and `jvp` of `functional_call`, in the same batches.  The matrix is
`gradient_kernel`, once.
"""

import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import torch  # noqa: E402
from torch.func import functional_call, jvp, vjp  # noqa: E402

import pkbook as pk  # noqa: E402

ROUNDS = 9
CASES = {
    "MLP 2-100-100-1, 4000 points": (lambda: pk.models.mlp(2, 100, 100, 1, seed=0), (4000, 2)),
    "MNIST CNN, 400 images": (lambda: pk.models.mnist_cnn(seed=0), (400, 1, 28, 28)),
    "CIFAR CNN, 200 images": (lambda: pk.models.cifar_cnn(seed=0), (200, 3, 32, 32)),
}


def by_loop(model: torch.nn.Module, x: torch.Tensor, v: torch.Tensor, rows: int) -> torch.Tensor:
    """All outputs of all samples, ``[n, C]``."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    parts = list(zip(x.split(rows), v.split(rows), strict=True))
    for xs, vs in parts:
        (pulled,) = vjp(lambda p, xs=xs: functional_call(model, p, (xs,)), parameters)[1](vs)
        total = {name: t + pulled[name] for name, t in total.items()}
    return torch.cat(
        [
            jvp(lambda p, xs=xs: functional_call(model, p, (xs,)), (parameters,), (total,))[1]
            for xs, _ in parts
        ]
    )


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'case':32}{'operator':>10}{'loop':>10}{'made':>10}{'matrix':>10}{'apart':>10}")
    for name, (make, shape) in CASES.items():
        torch.manual_seed(0)
        model, x = make().eval(), torch.randn(shape)
        v = torch.randn(len(x), model(x[:1]).shape[1])
        pk.kernel_operator(model, x[:3], reduce="full")
        start = time.thread_time()
        k = pk.kernel_operator(model, x, reduce="full")
        made = time.thread_time() - start
        ways = {
            "operator": lambda k=k, v=v: (k @ v.flatten()).view_as(v),
            "loop": lambda m=model, x=x, v=v, k=k: by_loop(m, x, v, k.size.rows),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        results = {}
        for _ in range(ROUNDS):
            for way, call in ways.items():
                start = time.thread_time()
                results[way] = call()
                seconds[way].append(time.thread_time() - start)
        start = time.thread_time()
        pk.gradient_kernel(model, x)
        matrix = time.thread_time() - start
        off = (results["operator"] - results["loop"]).norm() / results["loop"].norm()
        row = [*(statistics.median(found) for found in seconds.values()), made, matrix]
        print(f"{name:32}" + "".join(f"{1e3 * t:10.1f}" for t in row) + f"{off:10.1e}")


if __name__ == "__main__":
    main()
