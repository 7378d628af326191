r"""Whether sums over a batch are sums over its samples, for passes that use whole batches.

:math:`J^\top v=\sum_iv_i\,\nabla f(x_i)` by one backward pass holds where no sample's output or
gradient depends on the rest of its batch.
"""

import torch

from pkbook.basics.parameters import Tree
from pkbook.kernels.gradients import mixed_gradient, require_apart
from pkbook.kernels.gram import End
from pkbook.kernels.guard import Guard
from pkbook.kernels.inputs import evaluate
from pkbook.kernels.passes import calling, pull_back_sum, watched
from pkbook.kernels.plan import require_alone


def require_sums_apart(end: End, rows: slice) -> None:
    """``ValueError`` if the outputs or the gradient of a batch are not those of its halves.

    Samples of a model that asks about values, so that its path may depend on them, are compared one
    by one.
    """
    model, x, parameters = end.model, end.x[rows], end.parameters
    with watched(calling(model, x), parameters) as (f, watch):
        guard, outputs = Guard(f, watch.leaves, None, watch.coarsest), f.detach()
    ends = range(len(x)) if end.plan.looked else (0, len(x) - 1)
    alone = torch.cat([evaluate(model, x[i : i + 1], parameters, None) for i in ends])
    require_alone(outputs[list(ends)], alone, end.plan.term)
    if len(x) == 1:
        return
    require_apart(model, x, parameters, outputs, end.plan.term)
    halves: Tree = {name: p.new_zeros(1, *p.shape) for name, p in parameters.items()}
    for some in (slice(0, None, 2), slice(1, None, 2)):
        pull_back_sum(calling(model, x[some]), parameters, guard.r[some].unsqueeze(0), halves)
    for name, wanted in guard.wanted.items():
        gap = halves[name][0] if wanted is None else halves[name][0] - wanted
        if gap.norm() > guard.near * guard.largest:
            raise mixed_gradient(name)
