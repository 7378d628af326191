"""Many predictions taken apart: what :func:`pkbook.explain` found, read chunk by chunk."""

from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from pkbook.interpolation.chunks import (
    InFolder,
    Shelf,
    all_chunks,
    complaints,
    read_chunk,
    read_manifest,
    refuse,
    rows_of,
    unpacked,
)
from pkbook.interpolation.effect import Influence
from pkbook.interpolation.result import Interpolation
from pkbook.interpolation.summary import of_explanation
from pkbook.interpolation.table import By, as_frame, blocks

if TYPE_CHECKING:
    import pandas


class Explanation:
    """Many predictions taken apart: what :func:`pkbook.explain` found, read chunk by chunk.

    ``len(told)`` is the number of queries, ``told[i]`` the :class:`Interpolation` of query ``i``
    alone (:math:`m=1`), with ``kind="influence"`` its :class:`Influence`, and iteration goes over
    all of them.  What is read from a folder is
    checked and lies on the CPU; one chunk at a time is held.
    """

    def __init__(self, manifest: dict, shelf: Shelf) -> None:
        self.manifest = manifest
        """What was asked: the run, the queries and the options."""
        self._shelf = shelf
        self._last: tuple[int, Interpolation | Influence] | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """The explanation kept in a folder, finished or not.

        Raises
        ------
        ValueError
            for a folder that holds no explanation, or whose manifest is damaged.  A damaged chunk
            is named where it is read.
        """
        return cls(read_manifest(Path(folder)), InFolder(Path(folder)))

    def __len__(self) -> int:
        """Number of queries."""
        return self.manifest["queries"]["number"]

    def __getitem__(self, query: int) -> Any:
        """The :class:`Interpolation`, or :class:`Influence`, of one query."""
        if isinstance(query, bool) or not isinstance(query, int):
            raise TypeError(f"query must be an int, got {type(query).__name__} {query!r}")
        if not -len(self) <= query < len(self):
            raise IndexError(f"query must lie in 0..{len(self) - 1}, got {query}")
        number, place = divmod(query % len(self), self.manifest["chunk"])
        part = self._chunk(number)
        return part.query(place) if isinstance(part, Influence) else _query_alone(part, place)

    def __repr__(self) -> str:
        where, there = "in memory", None
        if isinstance(self._shelf, InFolder):
            where = f"in folder {str(self._shelf.folder)!r}"
        with suppress(OSError, ValueError):  # a damaged folder is told of by what reads from it
            there = len(self._shelf.there())
        return of_explanation(self, where, there)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def _chunk(self, number: int) -> Interpolation | Influence:
        if self._last is None or self._last[0] != number:
            if not self._shelf.has(number):
                rows = rows_of(self.manifest, number)
                raise ValueError(
                    f"queries {rows.start} to {rows.stop - 1} are not there (chunk {number}): "
                    "call explain again with the same arguments to finish"
                )
            self._last = number, unpacked(read_chunk(self._shelf, self.manifest, number))
        return self._last[1]

    def chunks(self) -> Iterator[tuple[slice, Any]]:
        """The chunks in order: which queries, and their :class:`Interpolation`."""
        for number in all_chunks(self.manifest):
            yield rows_of(self.manifest, number), self._chunk(number)

    @property
    def missing(self) -> list[int]:
        """The numbers of the chunks that are not there, empty for a finished explanation."""
        return sorted(set(all_chunks(self.manifest)) - self._shelf.there())

    def verify(self) -> float:
        """Read every chunk against its checksum; the largest ``completeness`` (0 for influences).

        ``ValueError`` naming every chunk that is damaged or not there.
        """
        gaps = [0.0]

        def read(number: int) -> None:
            part = self._chunk(number)
            if isinstance(part, Interpolation):
                gaps.append(part.completeness.max().item())

        self._last = None
        there = self._shelf.there()
        refuse(
            [f"chunk {number} is not there (not finished, or lost)" for number in self.missing]
            + complaints(read, sorted(there))
        )
        return max(gaps)

    def contributions_to(self, query: int) -> Tensor:
        """Every sample's contribution to the outputs of one query, ``[N, C]``."""
        return self[query].contributions_to(0)

    # Interpolation.contributions is a tensor of all queries, which is what must not be held here.
    # The method that had the same name asks for one query; now its name says so, in both classes.
    def contributions(self, query: int) -> Tensor:
        """The old name of :meth:`contributions_to`."""
        return self.contributions_to(query)

    def top(self, k: int, query: int = 0, output: int = 0) -> tuple[Tensor, Tensor]:
        """The ``k`` samples that moved an output of a query most: :meth:`Interpolation.top`."""
        return self[query].top(k, 0, output)

    def to_pandas(self, by: By = "sample") -> "pandas.DataFrame":
        """All contributions as one table, all queries together: :meth:`Interpolation.to_pandas`.

        Every chunk is read, and the whole table must fit in memory.
        """
        parts = [part for _, part in self.chunks()]
        return as_frame([blocks(part, by) for part in parts], by, parts[0].word)

    @property
    def kind(self) -> str:
        """``"contributions"`` or ``"influence"``."""
        return self.manifest.get("told", "contributions")

    def _of_all(self, name: str) -> Tensor:
        if name not in self._told:
            raise ValueError(
                f"an explanation of kind 'influence' has no {name}: derivatives do not add up to a "
                "change; ask for kind='contributions'"
            )
        return self._told[name]

    @cached_property
    def _told(self) -> dict[str, Tensor]:
        """What is small enough to be held for all queries, from one reading of all chunks."""
        names = ("initial", "final", "change", "remainder", "completeness", "reached")
        if self.kind == "influence":
            names = ("final",)
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        for _, told in self.chunks():
            for name, parts in found.items():
                parts.append(getattr(told, name))
        return {name: torch.cat(parts) for name, parts in found.items()}

    @property
    def initial(self) -> Tensor:
        r""":math:`f(x,\theta_0)`, ``[m, C]``."""
        return self._of_all("initial")

    @property
    def final(self) -> Tensor:
        r""":math:`f(x,\theta_K)`, ``[m, C]``."""
        return self._told["final"]

    @property
    def change(self) -> Tensor:
        r""":math:`f(x,\theta_K)-f(x,\theta_0)`, ``[m, C]``."""
        return self._of_all("change")

    @property
    def remainder(self) -> Tensor:
        """What the quadrature rule left out, ``[m, C]``."""
        return self._of_all("remainder")

    @property
    def completeness(self) -> Tensor:
        """The relative gap of each query's sum, ``[m]``: :attr:`Interpolation.completeness`."""
        return self._of_all("completeness")

    @property
    def reached(self) -> Tensor:
        """Whether each query's sum closes to the tolerance asked for, bool ``[m]``."""
        return self._of_all("reached")


def _query_alone(told: Interpolation, i: int) -> Interpolation:
    """Query ``i`` alone (views)."""
    at = slice(i, i + 1)
    return Interpolation(
        told.initial[at],
        told.final[at],
        told.contributions[:, at],
        [(numbers, values[:, at]) for numbers, values in told.by_step],
        {name: t[at] for name, t in told.other.items()},
        told.remainder[at],
        told.pieces,
        {name: t[:, at] for name, t in told.by_parameter.items()},
        {name: t[at] for name, t in told.entries.items()},
        told.tolerance,
        told.doubt,
        None if told.by_token is None else told.by_token[:, :, at],
        {name: t[:, at] for name, t in told.by_part.items()},
        told.kept,
    )
