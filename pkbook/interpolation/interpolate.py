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

import warnings
from collections.abc import Sequence

from torch import Tensor

from pkbook.basics.checks import is_finite_number, require_choice, require_whole
from pkbook.interpolation.result import Interpolation
from pkbook.interpolation.walk import Rules, Walk, require_walk
from pkbook.kernels.inputs import selection
from pkbook.runs.recording import Recording

RULES = ("gauss", "riemann")


def interpolate(
    run: Recording,
    x: Tensor,
    *,
    outputs: int | Tensor | None = None,
    rule: str = "gauss",
    nodes: int = 3,
    tolerance: float | None = 1e-3,
    most_pieces: int = 64,
    layers: bool = False,
    entries: Sequence[str] = (),
    progress: bool = False,
) -> Interpolation:
    r"""Take the predictions at ``x`` apart into the training samples of a recorded run.

    Parameters
    ----------
    run
        the recorded training.
    x
        queries ``[m, ...]``, on the model's device.
    outputs
        None for all :math:`C` outputs, one index, or one index per query ``[m]``.
    rule
        ``"gauss"`` averages the query's gradient over each step with ``nodes``
        Gauss-Legendre nodes, error :math:`O(\eta^{2\,\text{nodes}})` on smooth networks.
        ``"riemann"`` takes it at the left end, the plain sum of Theorem 2.2, error
        :math:`O(\eta)`.
    tolerance
        with ``"gauss"``, a step whose own residual is too large is bisected, until three
        times the root sum of squares of all residuals is at most ``tolerance`` times the change of
        that query, or until it has ``most_pieces`` pieces in that step.  Residuals at kinks have
        random signs, so their sum then stays below ``tolerance`` (three standard deviations); what
        it really is stands in ``remainder`` and ``completeness``; a query that stays above it is
        named in a warning and in ``reached``.  ``None``: never bisect, and measure no residual by
        step, which saves a forward pass of the queries each.
    layers
        also give the contributions by parameter tensor (``by_parameter``).
    entries
        names of parameters of which every single entry's part is wanted (``entries``).
    progress
        show a bar over the steps.

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
    require_choice(rule, "rule", RULES)
    require_whole(nodes, "nodes")
    require_whole(most_pieces, "most_pieces")
    if tolerance is not None and (not is_finite_number(tolerance) or tolerance <= 0):
        raise ValueError(f"tolerance must be a positive number or None, got {tolerance!r}")
    require_walk(run, x)
    unknown = set(entries) - set(run.names)
    if isinstance(entries, str) or unknown:
        raise ValueError(
            f"entries must be a list of trained parameters ({', '.join(run.names)}), "
            f"got {entries!r}"
        )
    if rule == "riemann":
        tolerance = None
    rules = Rules(rule, nodes, tolerance, most_pieces)
    told = Walk(run, x, selection(outputs, len(x), x.device), rules, layers, tuple(entries))
    told.backwards(progress)
    return _warned(told.result())


def _warned(told: Interpolation) -> Interpolation:
    if told.tolerance is not None and not told.reached.all():
        gap = (told.change - told.explained).norm(dim=1)
        missed = ~told.reached
        if (told.remainder.norm(dim=1) < gap / 2)[missed].any():
            advice = (
                "not in the quadrature but in the gradients of the training steps: an optimizer "
                "with per-entry scales magnifies gradients that are nothing but rounding (a bias "
                "before a normalisation, say); leave such parameters out, or train in float64"
            )
        else:
            advice = "see remainder; allow more pieces or nodes"
        warnings.warn(
            f"the tolerance {told.tolerance:g} was not reached for queries "
            f"{missed.nonzero().flatten().tolist()[:8]}: up to {told.completeness.max():.2g} of "
            f"the change remains ({advice})",
            stacklevel=3,
        )
    return told
