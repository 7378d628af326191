r"""Through which later steps the gradients of a step moved a prediction."""

from typing import Any

from torch import Tensor, nn

from pkbook.basics.budget import LARGEST_DEFAULT, free_memory
from pkbook.basics.checks import require_whole
from pkbook.basics.inference import outside_inference
from pkbook.basics.parameters import Tree
from pkbook.interpolation.optimizer_memory import Memory
from pkbook.interpolation.options import Options
from pkbook.interpolation.shares import batch_gradient
from pkbook.interpolation.walk import Walk, require_walk
from pkbook.kernels.asked import Inputs, asked
from pkbook.kernels.inputs import selection
from pkbook.runs.optimizers import StepState
from pkbook.runs.recording import Recording


@outside_inference()
def step_pairs(
    run: Recording,
    x: Any,
    *,
    of: Any = None,
    outputs: int | Tensor | None = None,
    bins: int | None = None,
    nodes: int = 3,
    memory: int | None = None,
) -> Tensor:
    r"""How much the gradients of step s moved the prediction through the movement at step t.

    .. math:: c(t,s)=-\Big\langle w_{t,s}\,D_t\,\bar\varphi_t(x),\;g_s\Big\rangle,\qquad s\le t,

    the discrete form of the two-time kernels of arXiv 2603.13872, eq. (16) and (24).  For an
    optimizer without memory only :math:`s=t` remains.  The sum over both times is the sum of the
    contributions.

    Parameters
    ----------
    run
        the recorded training, ``K`` steps.
    x
        queries ``[m, ...]``.
    of, outputs
        what is explained, as for :func:`pkbook.interpolate`.
    bins
        equal parts of the run that are told apart in both times; default every step, at most 50.
        Time and memory grow with it: each bin carries ``m C P`` numbers.
    nodes
        Gauss-Legendre nodes for each step.
    memory
        bytes that may be used; default a quarter of what is free, at most 1 GiB.

    Returns
    -------
    Tensor ``[m, C, bins, bins]`` in float64: first t, then s.

    Raises
    ------
    TypeError, ValueError
        as :func:`pkbook.interpolate`, and where ``memory`` does not hold that many bins.

    References
    ----------
    arXiv 2603.13872, eq. (9), (16) and (24).
    """
    x = asked(x, of)
    require_walk(run, x)
    require_whole(nodes, "nodes")
    bins = min(len(run), 50) if bins is None else require_whole(bins, "bins")
    if bins > len(run):
        raise ValueError(f"bins must be at most the number of steps {len(run)}, got {bins}")
    pairs = _Pairs(run, x, selection(outputs, len(x), x.device), bins, nodes)
    budget = memory or min(free_memory(x.device) // 4, LARGEST_DEFAULT)
    if pairs.bytes > budget:
        raise ValueError(
            f"memory must hold {bins} bins of the query's gradients, {pairs.bytes} bytes, got "
            f"{budget}; give fewer bins, fewer queries or one output"
        )
    pairs.walk.backwards(step=pairs.step)
    return pairs.matrix


class _Pairs:
    """One memory for each bin of the later time: what is linear can be told apart."""

    def __init__(self, run: Recording, x: Inputs, chosen, bins: int, nodes: int) -> None:
        self.run, self.bins = run, bins
        self.walk = Walk(run, x, chosen, Options(nodes=nodes, tolerance=None))
        self.memories = [Memory() for _ in range(bins)]
        remainder = self.walk.remainder
        self.matrix = remainder.new_zeros(*remainder.shape, bins, bins)
        first = run.model_at(0)
        trained = [p for name, p in first.named_parameters() if name in run.names]
        width = sum(p.numel() * p.element_size() for p in trained)
        self.bytes = bins * width * remainder.numel()

    def _bin(self, k: int) -> int:
        return k * self.bins // len(self.run)

    def step(self, k: int, before: StepState, after: StepState, model: nn.Module) -> None:
        average = self.walk.average(k, before, after, model)
        names = list(before.coefficients)
        total: Tree = {}
        for batch in self.walk.batches(k, before, model):
            for name, g in batch_gradient(batch, names).items():
                total[name] = total[name] + g if name in total else g
        for later in range(self._bin(k), self.bins):
            here = later == self._bin(k)
            for name, c in before.coefficients.items():
                nodes = average.nodes[name] if here else []
                pull = self.memories[later].pull(name, c, nodes)
                if pull is not None:
                    met = pull.formed() @ (total[name] * c.clip).flatten()
                    met = -c.sign * pull.scale * met.double()
                    self.matrix[:, :, later, self._bin(k)] += met.T
