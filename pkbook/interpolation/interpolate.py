r"""Both sides of Domingos' formula, exactly, for a recorded run.

A run moved the prediction at :math:`x` from :math:`f(x,\theta_0)` to :math:`f(x,\theta_K)`.
:func:`interpolate` says how much of that each training sample did:

.. math::
   f(x,\theta_K)-f(x,\theta_0)=\sum_i c_i(x),\qquad
   c_i(x)=-\sum_{s:\,i\in\mathcal B_s}\Big\langle u_s(x),
   \nabla f(x_i,\theta_s)^{\!\top}\tfrac1B\,\ell'_i(\theta_s)\Big\rangle .

It is the discrete form of arXiv 2603.13872, Theorem 2.2, eq. (4).  It holds at any learning rate
because the query's gradient is averaged over each step (fundamental theorem of calculus) instead
of being taken at its left end.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pkbook.basics.inference import outside_inference
from pkbook.interpolation.options import DEFAULT, Options, Parts, Rule
from pkbook.interpolation.result import Interpolation
from pkbook.interpolation.unreached import Unreached
from pkbook.interpolation.walk import Walk, require_walk
from pkbook.kernels.asked import Inputs, asked
from pkbook.kernels.inputs import selection
from pkbook.runs.recording import Recording


def interpolate(
    run: Recording,
    x: Any,
    *,
    of: Any = None,
    outputs: int | Tensor | None = None,
    rule: Rule = DEFAULT.rule,
    nodes: int = DEFAULT.nodes,
    tolerance: float | None = DEFAULT.tolerance,
    most_pieces: int = DEFAULT.most_pieces,
    by_parameter: bool = DEFAULT.by_parameter,
    entries: Sequence[str] = DEFAULT.entries,
    statistics: bool = DEFAULT.statistics,
    by_token: bool = DEFAULT.by_token,
    parts: Parts | None = DEFAULT.parts,
    progress: bool = False,
    layers: bool = False,
) -> Interpolation:
    r"""Take the predictions at ``x`` apart into the training samples of a recorded run.

    Parameters
    ----------
    run
        the recorded training.
    x
        queries ``[m, ...]``, on the model's device.  A dictionary, tuple or data class of tensors
        is given to the model by keyword or by place.
    of
        what is explained instead of the outputs: a tuple of indices, ``(t, v)`` for outputs
        ``[m, T, V]``; a function ``f(model, queries)`` returning ``[m]`` or ``[m, C]``; a margin,
        a log-probability or the loss of labelled queries from :mod:`pkbook.kernels.of`.
    outputs
        None for all :math:`C` outputs, one index, or one index per query ``[m]``; flat, so
        ``t * V + v`` for outputs ``[m, T, V]``.
    rule
        ``"gauss"`` averages the query's gradient over each step with ``nodes``
        Gauss-Legendre nodes, error :math:`O(\eta^{2\,\text{nodes}})` on smooth networks.
        ``"riemann"`` takes it at the left end, the plain sum of Theorem 2.2, error
        :math:`O(\eta)`.
    tolerance
        with ``"gauss"``, a step whose own residual is too large is split, into halves where the
        integrand is smooth and around its nodes where it has kinks, until three times the root sum
        of squares of all residuals is at most ``tolerance`` times the change of that query, or
        until that query has no room for more within ``most_pieces`` pieces in that step.
        Residuals at kinks have random signs, so their sum then stays below ``tolerance`` (three
        standard deviations); what it really is stands in ``remainder`` and ``completeness``; a
        query that stays above it is named in a warning and in ``reached``.  ``None``: never split,
        and measure no residual by step, which saves a forward pass of the queries each.
    by_parameter
        also give the contributions by parameter tensor, ``by_parameter`` of the result.
    entries
        names of parameters of which every single entry's part is wanted (``entries``).
    statistics
        give what moved BatchNorm's running statistics to the samples whose activations moved them,
        instead of reporting it as *running statistics* of nobody.  It costs a forward pass of each
        batch and three backward passes of the queries a step; what was there before the first
        step is *initial statistics*.
    by_token
        also give the contributions by token of each training sequence, ``by_token`` of the result,
        ``[N, T, m, C]``: of a loss that depends on outputs ``[n, T, ...]``, through the outputs at
        each of the :math:`T` places.  It costs :math:`T` backward passes of each batch.
    parts
        also give the contributions through parts of the parameters, ``by_part`` of the result: by a
        name of yours ``{parameter: index}``, such as the rows of one attention head.
    progress
        show a bar over the steps.
    layers
        the old name of ``by_parameter``.

    Returns
    -------
    Interpolation

    Raises
    ------
    TypeError, ValueError
        for queries that are empty, not finite, on another device or of another dtype, a run
        without steps, and unknown rules.
    ReplayError
        if the replay does not reproduce the recorded run bit for bit.

    References
    ----------
    arXiv 2603.13872, Theorem 2.2 and eq. (4); exact form after Bell et al. 2023.
    """
    options = Options(
        rule, nodes, tolerance, most_pieces, by_parameter or layers, entries, statistics,
        by_token, parts,
    )  # fmt: skip
    x = asked(x, of)
    taken_apart = take_apart(run, x, outputs, options, progress)
    unreached = Unreached()
    unreached.add(taken_apart, range(len(x)))
    unreached.warn(stacklevel=2)
    return taken_apart


@outside_inference()
def take_apart(
    run: Recording,
    x: Inputs,
    outputs: int | Tensor | None,
    options: Options,
    progress: bool = False,
) -> Interpolation:
    """:func:`interpolate` without its warning: ``reached`` of the result says the same.

    For those who ask part by part and number the queries of all parts together.
    """
    require_walk(run, x)
    options.entries_among(run.names)
    walk = Walk(run, x, selection(outputs, len(x), x.device), options)
    walk.backwards(progress)
    return walk.result()
