"""What :func:`pkbook.interpolate` finds: a change of a prediction, sample by sample."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from pkbook.interpolation.by_sample import BySample
from pkbook.interpolation.largest import only_largest
from pkbook.interpolation.packing import as_fields, as_tensors, read_file, write_file
from pkbook.interpolation.summary import of_interpolation
from pkbook.interpolation.waterfall import waterfall

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Interpolation(BySample):
    """The change of a prediction sample by sample: ``m`` queries, ``C`` outputs, ``N`` samples."""

    initial: Tensor
    r""":math:`f(x,\theta_0)`, ``[m, C]``."""
    final: Tensor
    r""":math:`f(x,\theta_K)`, ``[m, C]``."""
    contributions: Tensor
    r""":math:`c_i(x)`, ``[N, m, C]``, in float64."""
    by_step: list[tuple[Tensor, Tensor]]
    """For each step its batch ``[B]`` and the contributions made there ``[B, m, C]``."""
    other: dict[str, Tensor]
    """Changes that belong to no sample, ``{name: [m, C]}``: *weight decay*, *initial momentum*,
    *running statistics* (BatchNorm; with ``statistics`` what is left of them, and *initial
    statistics*), *replay difference* (another machine's rounding)."""
    remainder: Tensor
    """What the quadrature rule left out, ``[m, C]``: the sum of the steps' own residuals where a
    tolerance was asked for, else the gap of the whole sum."""
    pieces: Tensor
    """Sub-intervals used at each step ``[K]`` by the query that needed most: more than one where
    the path had kinks."""
    by_parameter: dict[str, Tensor] = field(default_factory=dict)
    """With ``by_parameter=True``: the contributions by parameter tensor, ``{name: [N, m, C]}``."""
    entries: dict[str, Tensor] = field(default_factory=dict)
    """What moved through single entries of the parameters asked for, all samples together,
    ``{name: [m, C, *shape]}``."""
    tolerance: float | None = None
    """What was asked of ``completeness``."""
    doubt: str = "rounding"
    """What most likely keeps the sum from closing, where it does not: *precision* (splitting the
    steps gained nothing), *scales* (an optimizer with per-entry scales), *rounding*."""
    by_token: Tensor | None = None
    """Contributions by token of each sample, ``[N, T, m, C]``, where they are asked for."""
    by_part: dict[str, Tensor] = field(default_factory=dict)
    """With ``parts``: the contributions through each, ``{name: [N, m, C]}``."""
    kept: int | None = None
    """How many contributions to each prediction are told, where the others are one term."""

    @property
    def change(self) -> Tensor:
        r""":math:`f(x,\theta_K)-f(x,\theta_0)`, ``[m, C]``."""
        return self.final.double() - self.initial.double()

    @property
    def explained(self) -> Tensor:
        """Sum of all contributions and of the terms that belong to no sample, ``[m, C]``."""
        return self.contributions.sum(0) + sum(self.other.values())

    @property
    def completeness(self) -> Tensor:
        r"""The relative gap of the sum, one number per query ``[m]``:

        :math:`\|f_K-f_0-\sum_i c_i-\text{other}\|/\|f_K-f_0\|`, norms over the outputs.
        Zero is perfect.  For a query that did not change at all it is 0 if the gap is 0, else inf.
        """
        gap = (self.change - self.explained).norm(dim=1)
        size = self.change.norm(dim=1)
        return torch.where(gap == 0, 0.0, gap / size)

    @property
    def reached(self) -> Tensor:
        """Whether each query's sum closes to the tolerance asked for, bool ``[m]``."""
        return self.completeness <= (0.0 if self.tolerance is None else self.tolerance)

    def contributions_to(self, query: int) -> Tensor:
        """Every sample's contribution to the outputs of one query, ``[N, C]``."""
        self._require_place("query", query, self.contributions.shape[1])
        return self.contributions[:, query]

    @property
    def per_sample(self) -> Tensor:
        """``contributions``."""
        return self.contributions

    @cached_property
    def by_time(self) -> Tensor:
        """Contribution of each step's batch, ``[K, m, C]``."""
        if not self.by_step:
            raise ValueError(
                "by_time is not there: only the largest contributions were kept; ask without keep"
            )
        return torch.stack([values.sum(0) for _, values in self.by_step])

    def plot(
        self,
        query: int = 0,
        output: int = 0,
        top: int = 10,
        show: Tensor | Sequence[str] | None = None,
        labels: Tensor | Sequence | None = None,
        ax: "Axes | None" = None,
    ) -> "Axes":
        r"""Draw how an output of a query went from :math:`f(x,\theta_0)` to :math:`f(x,\theta_K)`.

        Bars from top to bottom, each from where the one above ended: the ``top`` samples that
        moved it most, all others that pushed it up (for) and down (against), each entry of
        ``other``, and *not accounted for* where the sum visibly does not close.

        Parameters
        ----------
        query, output
            which prediction.
        top
            how many samples get a bar of their own.
        show
            what the samples are: images ``[N, h, w]``, ``[N, 1, h, w]`` or ``[N, 3, h, w]``, drawn
            small beside the bars, or a list of :math:`N` texts.
        labels
            one word or number for each sample ``[N]``, such as its class.
        ax
            matplotlib axes to draw into; default those of a new figure of ``pyplot``.

        Returns
        -------
        Axes
            ``ax.figure`` is the figure; with ``pk.plots.show(ax.figure, alt="...")`` its ink
            follows a light or a dark page.

        Raises
        ------
        ImportError
            without matplotlib, which ``pip install 'pkbook[lab]'`` brings.
        TypeError, ValueError
            for a query or an output that is not there, and for ``show`` or ``labels`` that do not
            give one entry a sample.
        """
        return waterfall(self, query, output, top, show, labels, ax)

    def largest(self, k: int) -> "Interpolation":
        """The same with the ``k`` largest contributions to each prediction, up or down.

        All others are zero, and their sum is one term, ``other["other samples"]``: the whole still
        closes.  Contributions by step are not kept.  ``ValueError`` where there are some by
        parameter or by token.

        >>> z = torch.zeros(1, 1)
        >>> c = torch.tensor([[[2.0]], [[-0.5]], [[1.0]]])
        >>> told = Interpolation(z, z + 2.5, c, [(torch.arange(3), c)], {}, z, torch.ones(1))
        >>> short = told.largest(1)
        >>> short.contributions.flatten().tolist(), short.other["other samples"].item()
        ([2.0, 0.0, 0.0], 0.5)
        """
        return only_largest(self, k)

    def save(self, path: str | Path) -> None:
        """Write everything to one file in safetensors, whole or not at all; nothing is pickled.

        A file that is there is replaced.  Tensors are kept bit for bit; :meth:`load` puts them on
        the CPU.

        Raises
        ------
        StorageError
            where the file cannot be written; what was there is intact.
        """
        write_file(path, as_tensors(self))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What :meth:`save` has written.

        Raises
        ------
        FileNotFoundError
            where there is no such file.
        ValueError
            naming a file that is damaged, of a later format, or something else.
        """
        return cls(**as_fields(read_file(path)))

    def __repr__(self) -> str:
        return of_interpolation(self)
