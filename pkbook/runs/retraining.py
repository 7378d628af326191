r"""Many trainings with other weights of the samples, all at once.

What differs between them is a number at each sample, so the parameters of ``R`` trainings are
stacked and every step is made for all of them in one pass under ``torch.func.vmap``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pkbook.basics.checks import require_tensor, require_whole
from pkbook.basics.inference import outside_inference
from pkbook.basics.outputs import outputs_of, the_tensor
from pkbook.basics.parameters import Tree
from pkbook.runs.copies import copied
from pkbook.runs.problem import Problem
from pkbook.runs.recording import Recording
from pkbook.runs.reweighting import Divisor, checked_weights, made_again
from pkbook.runs.stacked import Stacked, can_be_stacked


@dataclass(frozen=True)
class Retrained:
    """``R`` trained models: parameters and buffers, stacked."""

    model: nn.Module
    """The network, with parameters of its own that play no part."""
    parameters: Tree
    """Parameters and buffers by name, ``[R, *shape]``."""

    def __len__(self) -> int:
        return len(next(iter(self.parameters.values())))

    def outputs(self, x: Any, of: Callable[[nn.Module, Any], Tensor] | None = None) -> Tensor:
        """What each model says in eval mode about queries ``[m, ...]``: ``[R, m, C]``.

        ``of``: a function of a model and queries, in place of the model's outputs.
        """
        found = []
        with torch.no_grad():
            for r in range(len(self)):
                model = self.model_of(r)
                f = the_tensor(outputs_of(model, x)) if of is None else of(model, x)
                found.append(f.reshape(len(f), -1))
        return torch.stack(found)

    def model_of(self, r: int) -> nn.Module:
        """A copy of the network with the parameters of training ``r``, in eval mode."""
        (model,) = copied(self.model)
        own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        with torch.no_grad():
            for name, t in self.parameters.items():
                own[name].copy_(t[r])
        return model.eval()


@outside_inference()
def retrained(
    run: Recording,
    weights: Tensor,
    *,
    divisor: Divisor = "batch",
    negative: bool = False,
    chunk: int = 32,
    progress: bool = False,
) -> Retrained:
    """The recorded training with each row of weights, ``[R, N]``, as by :meth:`reweighted`.

    Parameters
    ----------
    run
        the recorded training.
    weights
        ``[R, N]``: one training for each row; subsets are rows of zeros and ones.
    divisor, negative
        as for :meth:`pkbook.Trajectory.reweighted`.
    chunk
        trainings made at a time.
    progress
        show a bar over the steps.

    Returns
    -------
    Retrained
        the stacked parameters; ``.outputs(x)`` is ``[R, m, C]``.

    Raises
    ------
    TypeError, ValueError
        for weights of another shape, and as :meth:`pkbook.Trajectory.reweighted`.

    Notes
    -----
    The first step is compared with one made alone.  A model that ``vmap`` cannot follow, or that
    says something else under it, is trained one by one, which takes longer.

    Examples
    --------
    >>> import torch, pkbook as pk
    >>> x = torch.tensor([[-1.0], [0.0], [1.0]])
    >>> line = torch.nn.Linear(1, 1)
    >>> sgd = torch.optim.SGD(line.parameters(), lr=0.5)
    >>> run = pk.Trajectory(line, pk.losses.squared, sgd, (x, 2 * x))
    >>> for batch in pk.batches(3, size=2, steps=40, seed=0):
    ...     _ = run.step(batch)
    >>> run.retrained(1 - torch.eye(3)).outputs(torch.tensor([[3.0]])).shape
    torch.Size([3, 1, 1])
    """
    weights = require_tensor(weights, "weights")
    require_whole(chunk, "chunk")
    if weights.ndim != 2 or weights.shape[1] != run.samples or not len(weights):
        raise ValueError(
            f"weights must be [R, {run.samples}], a row for each training, got shape "
            f"{tuple(weights.shape)}"
        )
    rows = torch.stack([checked_weights(run, row, divisor, negative) for row in weights.double()])
    parts = []
    for some in rows.split(chunk):
        problem = replace(run.problem, weights=some[0], whole=divisor == "batch")
        found = _together(run, problem, some, progress) if can_be_stacked(run) else None
        parts.append(_one_by_one(run, problem, some, progress) if found is None else found)
    (model,) = copied(run.model)
    return Retrained(model, {n: torch.cat([p[n] for p in parts]) for n in parts[0]})


def _one_by_one(run: Recording, problem: Problem, rows: Tensor, progress: bool) -> Tree:
    """Training after training."""
    models = [made_again(run, replace(problem, weights=row), progress).model for row in rows]
    trees = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in models]
    return {name: torch.stack([tree[name].detach() for tree in trees]) for name in trees[0]}


def _together(run: Recording, problem: Problem, rows: Tensor, progress: bool) -> Tree | None:
    """All at once; None for a model that does not go that way."""
    stacked = Stacked(run, problem, rows)
    try:
        for k in tqdm(range(len(run)), disable=not progress, desc="steps of all trainings"):
            stacked.step(k)
            if k == 0 and not stacked.agrees():
                return None
    except (RuntimeError, NotImplementedError) as error:
        if any(word in str(error) for word in ("vmap", "functorch", "batched", "in-place")):
            return None
        raise
    return stacked.parameters | stacked.buffers
