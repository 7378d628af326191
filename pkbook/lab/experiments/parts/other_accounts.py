r"""Accounts of a prediction that others have proposed, each a score ``[N, m]`` from one training.

All speak of the log-odds :math:`g` of a query's label, and a large score says that the sample
speaks for it.  Two of them, marked so, are no more than similarities.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkbook.kernels import gradient_kernel, of
from pkbook.kernels.features import tangent_features
from pkbook.lab.experiments.parts.study import Study

DAMPING = 0.1  # of a curvature, in units of its mean eigenvalue, as kronfluence takes it
PROJECTED = 512  # TRAK's dimensions
RIDGE = 1e-3  # of kernel regression, in units of the kernel's mean diagonal
DECAY = 1e-2  # of the last layer that representer points ask for


def gradient_dot(study: Study) -> Tensor:
    r""":math:`-\langle\nabla\ell_i,\nabla g\rangle` at the end (Charpiat et al. 2019)."""
    return -study.losses_of(study.end) @ study.odds(study.end).T


def tracin(study: Study) -> Tensor:
    r""":math:`-\eta\sum_k\langle\nabla\ell_i,\nabla g\rangle` at the ends of all epochs.

    Source: Pruthi et al. 2020, TracInCP.
    """
    total = torch.zeros(len(study.x), len(study.queries))
    for k in range(study.epoch, len(study.run) + 1, study.epoch):
        model = study.run.model_at(k)
        total -= study.rate * study.losses_of(model) @ study.odds(model).T
    return total


def trak(study: Study) -> Tensor:
    r""":math:`\varphi(x)^T(\Phi^T\Phi)^{-1}\varphi_i(1-p_i)` of random projections.

    :math:`\varphi` are gradients of the log-odds, :math:`p_i` the probability of the label.

    Source: Park et al. 2023, equation 13, with one model.
    """
    own = tangent_features(study.end, study.x, of=of.log_odds(study.y))[:, 0]
    draw = torch.Generator().manual_seed(study.seed)
    size = min(PROJECTED, len(study.x) // 2)  # fewer than samples: else the inverse is none
    through = torch.randn(own.shape[1], size, generator=draw)
    own, asked = (own @ through).double(), (study.odds(study.end) @ through).double()
    with torch.no_grad():
        unsure = 1 - study.end(study.x).softmax(1).gather(1, study.y[:, None]).double()
    return unsure * (own @ torch.linalg.solve(own.T @ own, asked.T))


def gauss_newton(study: Study) -> Tensor:
    r""":math:`-\nabla g^T(J^THJ/N+\lambda)^{-1}\nabla\ell_i` with the whole Gauss-Newton matrix.

    Source: Koh and Liang 2017 (influence functions); Martens 2020 (the matrix).
    """
    features = tangent_features(study.end, study.x)  # [N, C, P]
    with torch.no_grad():
        p = study.end(study.x).softmax(1)
    root = p.sqrt()[:, :, None] * (features - torch.einsum("nc,ncp->np", p, features)[:, None])
    rows = root.flatten(0, 1).double()
    curvature = rows.T @ rows / len(study.x)
    curvature.diagonal().add_(DAMPING * curvature.diagonal().mean())
    solved = torch.linalg.solve(curvature, study.odds(study.end).double().T)
    return -study.losses_of(study.end).double() @ solved


def last_features(model: nn.Sequential, x: Tensor) -> Tensor:
    """What enters the last layer, and a one for its bias, ``[n, h + 1]``."""
    with torch.no_grad():
        found = model[:-1](x)
    return torch.cat([found, found.new_ones(len(x), 1)], 1)


def representer(study: Study) -> Tensor:
    r"""The part of sample i in the last layer, :math:`\alpha_i\langle h_i,h(x)\rangle`.

    The last layer is trained to its optimum under weight decay :math:`\lambda`, where
    :math:`\alpha_i=-\nabla_f\ell_i/(\lambda N)`.  Source: Yeh et al. 2018.
    """
    h, q = (last_features(study.end, x).double() for x in (study.x, study.queries))
    w = torch.zeros(h.shape[1], 10, dtype=h.dtype, requires_grad=True)
    search = torch.optim.LBFGS(
        [w], max_iter=500, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def value() -> Tensor:
        search.zero_grad()
        found = F.cross_entropy(h @ w, study.y) + DECAY / 2 * w.square().sum()
        found.backward()
        return found

    search.step(value)
    with torch.no_grad():
        missed = F.one_hot(study.y, 10) - (h @ w).softmax(1)  # [N, C]
        others = (q @ w).scatter(1, study.labels[:, None], -torch.inf).softmax(1)
        against = F.one_hot(study.labels, 10) - others  # the log-odds by the outputs, [m, C]
    return (missed @ against.T) * (h @ q.T) / (DECAY * len(h))


def ntk_regression(study: Study) -> Tensor:
    r"""Regression with the kernel of the start: the part of sample i, :math:`K_{x,x_i}\alpha_i`."""
    start = study.run.model_at(0)
    own = gradient_kernel(start, study.x).double()
    other = gradient_kernel(start, study.x, study.queries).double()
    targets = F.one_hot(study.y, 10).double()
    own.diagonal().add_(RIDGE * own.diagonal().mean())
    alpha = torch.linalg.solve(own, targets)  # [N, C]
    against = (10 * F.one_hot(study.labels, 10).double() - 1) / 9  # a label, less the others' mean
    return other * (alpha @ against.T)


def last_layer(study: Study) -> Tensor:
    """A similarity: the cosine of what enters the last layer, with the sign of the label."""
    h, q = (F.normalize(last_features(study.end, x), dim=1) for x in (study.x, study.queries))
    return study.signs() * (h @ q.T)


def pixels(study: Study) -> Tensor:
    """A similarity: the cosine of the pictures, with the sign of the label."""
    one, two = (F.normalize(x.flatten(1), dim=1) for x in (study.x, study.queries))
    return study.signs() * (one @ two.T)


def by_chance(study: Study) -> Tensor:
    """Random numbers."""
    draw = torch.Generator().manual_seed(study.seed)
    return torch.randn(len(study.x), len(study.queries), generator=draw)


def ekfac(study: Study) -> Tensor:
    r""":math:`-\nabla g^TH^{-1}\nabla\ell_i` with EK-FAC's curvature (Grosse et al. 2023).

    Made by kronfluence; ImportError without ``pip install 'pkbook[ekfac]'``.
    """
    from pkbook.lab.experiments.parts.eigenvalue_corrected import scores

    return scores(study)


OTHERS: dict[str, Callable[[Study], Tensor]] = {
    "TracIn": tracin,
    "gradients at the end": gradient_dot,
    "TRAK": trak,
    "Gauss-Newton influence": gauss_newton,
    "EK-FAC influence": ekfac,
    "representer points": representer,
    "kernel regression": ntk_regression,
    "last layer": last_layer,
    "pixels": pixels,
    "random": by_chance,
}
