"""Contributions as a table with one row for each of them, for pandas."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pkbook.basics.checks import require_choice
from pkbook.basics.extras import needs_lab

if TYPE_CHECKING:
    import pandas

    from pkbook.interpolation.by_sample import BySample

By = Literal["sample", "step", "parameter"]

Block = tuple[int | str, Tensor, Tensor]
"""A step's number or a parameter's name, sample numbers ``[B]``, contributions ``[B, m, C]``."""


def blocks(told: "BySample", by: By) -> list[Block]:
    """The numbers of a result, in the pieces asked for."""
    require_choice(by, "by", get_args(By))
    samples = torch.arange(len(told.per_sample))
    if by == "step":
        return [(k, numbers, values) for k, (numbers, values) in enumerate(told.by_step)]
    if by == "sample":
        return [("", samples, told.per_sample)]
    if not told.by_parameter:
        raise ValueError(
            "by must be 'sample' or 'step' for numbers that were not split by parameter, "
            "got 'parameter'; ask for them with by_parameter=True"
        )
    return [(name, samples, values) for name, values in told.by_parameter.items()]


def as_frame(
    parts: Sequence[list[Block]], by: By, word: str = "contribution"
) -> "pandas.DataFrame":
    """The table of one or more results about the same samples, their queries numbered through."""
    with needs_lab("to_pandas"):
        from pandas import DataFrame
    joined = [_joined(pieces) for pieces in zip(*parts, strict=True)]
    columns: dict[str, np.ndarray] = {}
    if by != "sample":
        labels = [label for label, _, _ in joined]
        sizes = [values.numel() for _, _, values in joined]
        columns[by] = np.repeat(np.array(labels, dtype="int64" if by == "step" else object), sizes)
    rows = [_rows(numbers, values) for _, numbers, values in joined]
    names = ("sample", "query", "output", word)
    for name, pieces in zip(names, zip(*rows, strict=True), strict=True):
        columns[name] = torch.cat(pieces).numpy()
    return DataFrame(columns)


def _joined(pieces: Sequence[Block]) -> Block:
    """The same block of several results, side by side."""
    label, numbers, _ = pieces[0]
    values = torch.cat([values.detach().cpu() for _, _, values in pieces], dim=1)
    return label, numbers.cpu(), values


def _rows(numbers: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sample, query, output and contribution of each entry ``[B, m, C]``, the last one fastest."""
    query, output = torch.arange(values.shape[1])[:, None], torch.arange(values.shape[2])
    sample, query, output = torch.broadcast_tensors(numbers[:, None, None], query, output)
    return sample.flatten(), query.flatten(), output.flatten(), values.flatten()
