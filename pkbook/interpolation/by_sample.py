"""What results have in common that hold one number for each training sample."""

from typing import TYPE_CHECKING

from torch import Tensor

from pkbook.basics.checks import require_tensor, require_whole
from pkbook.interpolation.table import By, as_frame, blocks

if TYPE_CHECKING:
    import pandas


class BySample:
    """Numbers ``[N, m, C]``: one for each training sample, query and output."""

    by_step: list[tuple[Tensor, Tensor]]
    by_parameter: dict[str, Tensor]
    word = "contribution"
    """What such a number is called in tables."""

    @property
    def per_sample(self) -> Tensor:
        """The numbers, ``[N, m, C]``."""
        raise NotImplementedError

    def by_group(self, labels: Tensor) -> dict:
        """The numbers summed over the samples of each label ``[N]``: ``{label: [m, C]}``."""
        labels, values = require_tensor(labels, "labels"), self.per_sample
        if labels.shape != values.shape[:1]:
            raise ValueError(
                f"labels must give one label per sample [{len(values)}], got shape "
                f"{tuple(labels.shape)}"
            )
        labels = labels.to(values.device)
        return {v.item(): values[labels == v].sum(0) for v in labels.unique()}

    def top(self, k: int, query: int = 0, output: int = 0) -> tuple[Tensor, Tensor]:
        """The ``k`` samples with the largest numbers for an output of a query, up or down.

        Returns their sample numbers ``[k]`` and values ``[k]``, the largest first.
        """
        n, m, c = self.per_sample.shape
        require_whole(k, "k")
        self._require_place("query", query, m)
        self._require_place("output", output, c)
        values = self.per_sample[:, query, output]
        order = values.abs().argsort(descending=True, stable=True)[: min(k, n)]
        return order, values[order]

    def to_pandas(self, by: By = "sample") -> "pandas.DataFrame":
        """All numbers as a table, one row for each.

        Parameters
        ----------
        by
            ``"sample"``: columns *sample, query, output* and the number's name, ``N m C`` rows.
            ``"step"``: one row for each sample of each step's batch, its number in a first column
            *step*.  ``"parameter"``: the parts of ``by_parameter``, with a first column
            *parameter*.  In all three a query's numbers have the same sum.

        Raises
        ------
        ImportError
            without pandas, which ``pip install 'pkbook[lab]'`` brings.
        ValueError
            for another word, and for ``"parameter"`` where that was not asked for.

        Examples
        --------
        >>> import torch
        >>> from pkbook.interpolation.result import Interpolation
        >>> z = torch.zeros(1, 1)
        >>> c = torch.tensor([[[2.0]], [[-0.5]]])
        >>> told = Interpolation(z, z + 1.5, c, [(torch.arange(2), c)], {}, z, torch.ones(1))
        >>> told.to_pandas()
           sample  query  output  contribution
        0       0      0       0           2.0
        1       1      0       0          -0.5
        """
        return as_frame([blocks(self, by)], by, self.word)

    @staticmethod
    def _require_place(name: str, value: int, size: int) -> None:
        if not -size <= value < size:
            raise ValueError(f"{name} must lie in 0..{size - 1}, got {value}")
