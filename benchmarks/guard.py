"""What the guard costs: kernels with it, without it, and as it is (rows known where they can be).

    python benchmarks/guard.py

Median seconds of processor time, in turns, on one thread. The guard is needed where the rows of a
network are not known by construction; here it is forced on every case to see its price.
"""

import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import torch  # noqa: E402

import pkbook as pk  # noqa: E402
from benchmarks.cases import CASES, build  # noqa: E402
from pkbook.kernels import side  # noqa: E402

ROUNDS = 9
known = side._by_construction
WAYS = {
    "without": lambda watch, uses: True,
    "as it is": known,
    "forced": lambda watch, uses: False,
}


def cases():
    """The kernel benchmark's cases, and a transformer, whose rows are not known."""
    for name in ("A", "B", "B-full", "B-600", "C"):
        problem = build(CASES[name])
        yield name, problem.model, problem.x1, problem.x2, CASES[name].reduce
    vit = pk.models.vit(seed=0).eval()
    yield "vision transformer", vit, torch.randn(24, *_shape(vit)), None, "trace"


def _shape(vit) -> tuple[int, ...]:
    for shape in ((3, 32, 32), (1, 28, 28)):
        try:
            vit(torch.zeros(1, *shape))
            return shape
        except RuntimeError:
            continue
    raise ValueError("the transformer takes images of neither data set")


def main() -> None:
    torch.set_num_threads(1)
    print(
        f"{'case':20}" + "".join(f"{way:>12}" for way in WAYS) + f"{'as it is':>12}{'forced':>10}"
    )
    for name, model, x1, x2, reduce in cases():
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, decide in WAYS.items():
                side._by_construction = decide
                start = time.thread_time()
                pk.gradient_kernel(model, x1, x2, reduce=reduce)
                seconds[way].append(time.thread_time() - start)
        middle = {way: statistics.median(found) for way, found in seconds.items()}
        row = "".join(f"{middle[way]:12.4f}" for way in WAYS)
        ratios = [middle[way] / middle["without"] for way in ("as it is", "forced")]
        print(f"{name:20}{row}{ratios[0]:12.2f}{ratios[1]:10.2f}")


if __name__ == "__main__":
    main()
