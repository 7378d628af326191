"""One way to the influence, in a fresh process: ``influence_worker.py REQUEST``."""

import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks import explain_setting as es  # noqa: E402
from benchmarks.explain_worker import measured  # noqa: E402


def ours(problem: es.Problem) -> tuple[object, dict]:
    """From a recorded run."""
    run = es.record(problem)
    outputs = es.winners(problem.model, problem.queries)
    told, cost = measured(lambda: run.influence(problem.queries, outputs=outputs))
    return told.effects[..., 0], cost


def unrolled(problem: es.Problem) -> tuple[object, dict]:
    """The graph of the whole loop, by torch.func."""
    model, kind, options = (
        problem.model,
        problem.setting.optimizer,
        es.OPTIMIZERS[problem.setting.optimizer][1],
    )
    start = {n: p.detach().clone() for n, p in model.named_parameters()}

    def losses(tree: dict, batch: Tensor, weights: Tensor) -> Tensor:
        f = torch.func.functional_call(model, tree, (problem.x[batch],))
        each = nn.functional.cross_entropy(f, problem.y[batch], reduction="none")
        return (weights[batch] * each).mean()

    def train(weights: Tensor) -> dict:
        tree = {n: p.clone().requires_grad_() for n, p in start.items()}
        step = update_of(kind, options)
        for k, batch in enumerate(problem.batches, start=1):
            value = losses(tree, batch, weights)
            grads = torch.autograd.grad(value, list(tree.values()), create_graph=True)
            tree = step(k, tree, dict(zip(tree, grads, strict=True)))
        return tree

    def answer() -> Tensor:
        weights = torch.ones(len(problem.x), requires_grad=True)
        tree = train(weights)
        f = torch.func.functional_call(model, tree, (problem.queries,))
        rows = [torch.autograd.grad(v, weights, retain_graph=True)[0] for v in f.max(1).values]
        return torch.stack(rows, 1)

    model.eval()
    return measured(answer)


def update_of(kind: str, options: dict):
    """A differentiable step of SGD or AdamW, as torch makes it."""
    rate = options["lr"]
    if kind == "sgd":
        return lambda k, tree, g: {n: p - rate * g[n] for n, p in tree.items()}
    b1, b2, eps, decay = 0.9, 0.999, 1e-8, options["weight_decay"]
    first: dict = {}
    second: dict = {}

    def adamw(k: int, tree: dict, g: dict) -> dict:
        out = {}
        for n, p in tree.items():
            first[n] = b1 * first.get(n, 0.0) + (1 - b1) * g[n]
            second[n] = b2 * second.get(n, 0.0) + (1 - b2) * g[n].square()
            mean, size = first[n] / (1 - b1**k), second[n] / (1 - b2**k)
            # The square root has no derivative at zero; a unit that never fired stays out.
            root = torch.where(size > 0, size, 1.0).sqrt() * (size > 0)
            out[n] = p * (1 - rate * decay) - rate * mean / (root + eps)
        return out

    return adamw


def magic(problem: es.Problem) -> tuple[object, dict]:
    """bergson's MAGIC, with checkpoints at every square root of the steps."""
    import torchopt
    from bergson.magic.trainer import BackwardState, Trainer

    kind = problem.setting.optimizer
    options = es.OPTIMIZERS[kind][1]
    model = Weighted(problem.model.eval())
    if kind == "sgd":
        optimizer = torchopt.sgd(lr=options["lr"])
    else:
        optimizer = torchopt.adamw(lr=options["lr"], weight_decay=options["weight_decay"])
    data = Stream(problem)
    trainer, state = Trainer.initialize(model, optimizer)
    with tempfile.TemporaryDirectory() as folder:
        state = trainer.train(state, data, save_dir=folder)
        with state.activate(model) as params:
            f = model.net(problem.queries)
            value = f.max(1).values.sum()
            grads = torch.autograd.grad(value, list(params.values()))

        def back() -> Tensor:
            zeros = [torch.zeros_like(t) for t in state.differentiable_tensors()[len(grads) :]]
            begin = BackwardState(dict(zip(params, grads, strict=True)), zeros,
                                  torch.zeros(len(problem.x)))  # fmt: skip
            return trainer.backward(folder, data, begin, state).weight_grads[:, None]

        return measured(back)


class Weighted(nn.Module):
    """A model that returns its weighted mean loss, as the trainer wants it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, y: Tensor, example_weight: Tensor, labels: Tensor) -> Tensor:
        each = nn.functional.cross_entropy(self.net(x), y, reduction="none")
        return (example_weight * each).mean()


class Stream:
    """The batches of a run, as the trainer asks for them."""

    def __init__(self, problem: es.Problem) -> None:
        self.problem, self.device = problem, torch.device("cpu")
        self.weights = nn.Parameter(torch.ones(len(problem.x)))

    def __len__(self) -> int:
        return len(self.problem.batches)

    def __getitem__(self, k: int) -> dict:
        batch = self.problem.batches[k]
        return {"x": self.problem.x[batch], "y": self.problem.y[batch],
                "example_weight": self.weights[batch],
                "labels": torch.zeros(len(batch), 2)}  # fmt: skip

    @property
    def requires_grad(self) -> bool:
        return self.weights.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.weights.requires_grad = value


WAYS = {"ours": ours, "unrolled": unrolled, "magic": magic}


def worker(request: dict) -> dict:
    """Train plainly, then go one way; ``off`` is its relative distance from ours."""
    torch.set_num_threads(request["threads"])
    setting = es.Setting(
        request["optimizer"], request["steps"], 1000, request["queries"], request["network"],
        smooth=True,
    )  # fmt: skip
    small = es.build(es.tiny(setting))
    try:
        WAYS[request["way"]](small)  # what is loaded late is loaded now
        found, cost = WAYS[request["way"]](es.build(setting))
    except ImportError as error:
        return {"reason": str(error)}
    problem = es.build(setting)
    begun = time.perf_counter()
    es.train(problem, problem.batches)
    plain = time.perf_counter() - begun
    wanted, _ = (found, None) if request["way"] == "ours" else ours(es.build(setting))
    off = float((found - wanted).norm() / wanted.norm())
    return cost | {"plain_seconds": plain, "ratio": cost["seconds"] / plain, "off": off}


if __name__ == "__main__":
    print(json.dumps(worker(json.loads(sys.argv[1]))))
