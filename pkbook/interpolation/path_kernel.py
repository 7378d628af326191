"""The path kernel of a recorded run."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pkbook.basics.inference import outside_inference
from pkbook.basics.parameters import sum_of, trainable
from pkbook.kernels.asked import Inputs, both_asked
from pkbook.kernels.gram import gram
from pkbook.runs.recording import Recording
from pkbook.runs.steps import put_buffers


@outside_inference()
def path_kernel(
    run: Recording, x1: Any, x2: Any = None, *, of: Any = None, reduce: str = "trace"
) -> Tensor:
    r"""The path kernel, eq. (3) of arXiv 2603.13872, as a sum over the steps of a run:

    .. math:: \int_0^T K_{x,x'}(t)\,dt\;\approx\;\sum_k \eta_k\,K_{x,x'}(\theta_k) ,

    with the learning rate of each parameter's group as weight.  Inputs, ``of``, shapes and errors
    as in :func:`pkbook.gradient_kernel`.
    """
    if len(run) == 0:
        raise ValueError("run has no step yet: call run.step(batch) before path_kernel")
    x1, x2 = both_asked(x1, x2, of, None)
    return sum_of(_kernels(run, x1, x2, reduce))


def _kernels(run: Recording, x1: Inputs, x2: Inputs | None, reduce: str) -> Iterator[Tensor]:
    """The kernel at each step, the last one first."""
    for part in run.segments_backwards():
        model = part.model.eval()
        for state in part.states[:-1]:
            own = trainable(model)
            rates = {n: state.rates.get(n, 0.0) for n in own}
            put_buffers(model, state.buffers)
            here = own | state.parameters
            yield gram(model, x1, x2, reduce=reduce, weight=rates, parameters1=here)
        del part  # not held while the next part is replayed
