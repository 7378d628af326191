r"""Support vector machines on points, and on tangent features through their gradient kernel.

All are scikit-learn's ``SVC``. Plain ones keep its defaults, C = 1 and gamma = "scale". Tuned ones
choose C, and gamma where there is one, by cross-validation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sklearn.svm import SVC  # takes seconds to import: only where a machine is fitted

KINDS = ("RBF", "untrained", "tangent")
PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e4)  # of C, to choose from
SCALES = (0.25, 1.0, 4.0, 16.0)  # times gamma = "scale", to choose from
STRENGTHS = (0.1, *PENALTIES)  # of C, where it is turned by hand
FOLDS = 5


def machine(
    kind: str, fitted: np.ndarray, y: np.ndarray, *, tune: bool = False, seed: int = 0
) -> SVC:
    r"""A support vector machine, with its defaults or with cross-validated choices.

    For ``"RBF"``, `fitted` holds the points ``[n, 2]``; for ``"tangent"`` and ``"untrained"`` their
    gradient kernel ``[n, n]``, which makes it the linear machine on :math:`\varphi_\theta(x)`.
    ValueError if there are fewer than five samples of a class to tune with.
    """
    from sklearn import config_context
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.svm import SVC

    made = SVC() if kind == "RBF" else SVC(kernel="precomputed")
    if not tune:
        return made.fit(fitted, y)
    rarest = int(np.unique(y, return_counts=True)[1].min())
    if rarest < FOLDS:
        raise ValueError(
            f"samples: expected at least {FOLDS} of each class, came {rarest}; take more samples "
            "or a rounder set"
        )
    choices = {"C": [c / unit(kind, fitted) for c in PENALTIES]}
    if kind == "RBF":
        scale = 1 / (fitted.shape[1] * fitted.var())  # what gamma="scale" means
        choices["gamma"] = [scale * s for s in SCALES]
    split = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with config_context(assume_finite=True, skip_parameter_validation=True):  # of many small fits
        return GridSearchCV(made, choices, cv=split, scoring=right).fit(fitted, y).best_estimator_


def right(made: SVC, fitted: np.ndarray, y: np.ndarray) -> float:
    """The share of samples on the right side; scikit-learn's own score checks more and is slow."""
    return float(np.mean(made.predict(fitted) == y))


def unit(kind: str, fitted: np.ndarray) -> float:
    """The mean diagonal of the kernel: a penalty divided by it is as strong as on a unit one."""
    return 1.0 if kind == "RBF" else float(fitted.diagonal().mean())


def turned(kind: str, seen: np.ndarray, y: np.ndarray, fresh: np.ndarray) -> list[float]:
    """Accuracy on fresh points at each of `STRENGTHS`, the fresh ones last in `seen`."""
    from sklearn.svm import SVC

    fitted, asked, found = seen[: len(y)], seen[len(y) :], []
    for c in STRENGTHS:
        made = SVC(kernel="rbf" if kind == "RBF" else "precomputed", C=c / unit(kind, fitted))
        found.append(made.fit(fitted, y).score(asked, fresh))
    return found
