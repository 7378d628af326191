r"""Many predictions taken apart: chunk by chunk, on disk as soon as known, by one process or more.

:func:`pkbook.interpolate` holds what it finds, :math:`N` samples by :math:`m` queries by :math:`C`
outputs, and the averaged gradients of all its queries.  :func:`explain` takes a few queries apart
at a time, so that only these must fit in memory, and keeps each chunk before it begins the next.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm.auto import tqdm

from pkbook.basics.processes import Processes
from pkbook.interpolation.chunks import (
    InFolder,
    InMemory,
    Shelf,
    all_chunks,
    manifest_of,
    packed,
    place_of,
    read_chunk,
    rows_of,
)
from pkbook.interpolation.explanation import Explanation
from pkbook.interpolation.options import DEFAULT, Options, Rule
from pkbook.interpolation.question import (
    CONTRIBUTIONS,
    Kind,
    Question,
    checked_keep,
    fitting,
    question_of,
    require_kind,
)
from pkbook.interpolation.result import Interpolation
from pkbook.interpolation.unreached import Unreached
from pkbook.runs.recording import Recording


def explain(
    run: Recording,
    x: Any,
    *,
    of: Any = None,
    kind: Kind = "contributions",
    folder: str | Path | None = None,
    outputs: int | Tensor | None = None,
    rule: Rule = DEFAULT.rule,
    nodes: int = DEFAULT.nodes,
    tolerance: float | None = DEFAULT.tolerance,
    most_pieces: int = DEFAULT.most_pieces,
    by_parameter: bool = DEFAULT.by_parameter,
    entries: Sequence[str] = DEFAULT.entries,
    by_token: bool = DEFAULT.by_token,
    keep: int | None = None,
    chunk: int | None = None,
    memory: int | None = None,
    group: "dist.ProcessGroup | None" = None,
    timeout: float | None = None,
    progress: bool = False,
    layers: bool = False,
) -> Explanation:
    r"""Take the predictions at many queries apart into the training samples of a recorded run.

    Each chunk of queries is what one call of :func:`pkbook.interpolate` gives.  With ``folder`` a
    chunk is written as soon as it is known and not held any longer; called again with the same
    run, queries and options, ``explain`` goes on with the chunks that are missing.  Under
    ``torch.distributed`` it is called on every process of ``group`` with the same arguments, and
    the processes share the chunks.

    Parameters
    ----------
    run
        the recorded training.
    x
        queries ``[m, ...]``, on any device: each chunk is moved to the model's; or a structure of
        tensors, as for :func:`pkbook.interpolate`.
    of
        what is explained instead of the outputs, as for :func:`pkbook.interpolate`.  A folder
        knows a function by its name.
    kind
        ``"contributions"``: what happened, :func:`pkbook.interpolate`.  ``"influence"``: what would
        have happened, :func:`pkbook.influence`; then there is no quadrature, and of the options
        only ``by_parameter`` means anything.
    folder
        where to write the result; on several processes one that all of them see.  Default in
        memory, which needs a single process.
    outputs
        None for all :math:`C` outputs, one index, or one index per query ``[m]``.
    rule, nodes, tolerance, most_pieces, by_parameter, entries, by_token
        as for :func:`pkbook.interpolate`.
    keep
        of each prediction only so many contributions, the largest, and the sum of the others:
        :meth:`Interpolation.largest`.  Default all.
    chunk
        queries taken apart at a time.  Default what ``memory`` allows, or the number with which
        ``folder`` was begun.  Larger chunks are faster: each replays the run once.
    memory
        bytes that *each* process may use: a query and output hold about four gradients, and
        five times the result while it is written.  Default a quarter of what is free,
        divided by the number of processes, and at most 1 GiB.
    group, timeout
        as for :func:`pkbook.distributed_kernel`; the time-out must be longer than a chunk takes.
    progress
        show a bar over the chunks, or over the steps where there is one chunk.
    layers
        the old name of ``by_parameter``.

    Returns
    -------
    Explanation
        on every process; with ``folder`` it reads from there.

    Raises
    ------
    TypeError, ValueError
        as :func:`pkbook.interpolate`; for a folder that holds something else or the explanation
        of another run, of other queries or with other options, for a chunk that is damaged, each
        by name; on all processes where they differ in their arguments.
    StorageError
        where the folder cannot be written; the chunks before are intact.
    RankError
        where another process failed, ended or was not heard of in time.

    Examples
    --------
    >>> from pkbook import Trajectory
    >>> from pkbook.losses import squared
    >>> x = torch.tensor([[-1.0], [0.0], [1.0]])
    >>> line = torch.nn.Linear(1, 1)
    >>> sgd = torch.optim.SGD(line.parameters(), lr=0.5)
    >>> run = Trajectory(line, squared, sgd, (x, 2 * x))
    >>> for k in range(20):
    ...     _ = run.step([0, 1, 2])
    >>> told = explain(run, torch.linspace(-2, 2, 5)[:, None], chunk=2)
    >>> len(told), [rows.stop for rows, _ in told.chunks()]
    (5, [2, 4, 5])
    >>> bool(told.reached.all())
    True
    """
    home = run.device if isinstance(run, Recording) else torch.device("cpu")
    processes = Processes(group, timeout, home)

    def check() -> tuple[Question, int]:
        if processes.size > 1 and folder is None:
            raise ValueError("folder must be given where several processes explain together")
        options = Options(
            rule, nodes, tolerance, most_pieces, by_parameter or layers, entries,
            by_token=by_token,
        )  # fmt: skip
        require_kind(kind, options, keep)
        question = replace(
            question_of(run, x, of, outputs, options), keep=checked_keep(keep, options), kind=kind
        )
        question.facts.update({} if keep is None else {"keep": keep})
        question.facts.update({} if kind == CONTRIBUTIONS else {"told": kind})
        return question, fitting(question, chunk, memory, processes.size)

    question, fits = processes.together("checking its arguments", check)
    facts = {**question.facts, "chunk": chunk, "memory": memory, "folder": str(folder)}
    processes.agree({name: json.dumps(value) for name, value in facts.items()})
    fits = min(int(n) for n in processes.share(str(fits), "choosing the chunks"))
    shelf = InMemory() if folder is None else InFolder(Path(folder))
    try:
        size = processes.together(
            "opening the folder",
            lambda: shelf.begin(question.facts, fits, chunk) if processes.index == 0 else 0,
        )
        size = int(processes.share(str(size), "opening the folder")[0])
        manifest = manifest_of(question.facts, size)
        unreached = _work(processes, question, shelf, manifest, progress)
    finally:
        shelf.end()
    unreached.warn(stacklevel=2)
    return Explanation(manifest, shelf)


def _work(
    processes: Processes, question: Question, shelf: Shelf, manifest: dict, progress: bool
) -> Unreached:
    """Compute what is not there yet: in rounds, each process one chunk."""
    missing = _missing(processes, shelf, manifest)
    alone = len(all_chunks(manifest)) == 1  # then the bar is over its steps
    show = progress and processes.index == 0
    unreached = Unreached()

    def one(number: int) -> None:
        rows = rows_of(manifest, number)
        part = question.answer(rows, show and alone)
        if isinstance(part, Interpolation):
            unreached.add(part, range(rows.start, rows.stop))
        tensors = packed(part, place_of(manifest, number))
        del part  # not held as well while the chunk is written
        shelf.keep(number, tensors)

    with tqdm(total=len(missing), disable=not show or alone, desc="chunks") as bar:
        for start in range(0, len(missing), processes.size):
            of_round = missing[start : start + processes.size]
            mine = of_round[processes.index : processes.index + 1]

            def take(mine: list[int] = mine) -> None:
                for number in mine:
                    one(number)

            processes.together("taking its queries apart", take)
            bar.update(len(of_round))
    return unreached


def _missing(processes: Processes, shelf: Shelf, manifest: dict) -> list[int]:
    """The chunks that are not there, the same for all; those that are there have been read."""

    def look() -> None:  # each process reads its share of what is there
        for number in sorted(shelf.there())[processes.index :: processes.size]:
            read_chunk(shelf, manifest, number)

    processes.together("reading the chunks that are there", look)
    listed = processes.share(json.dumps(sorted(shelf.there())), "listing the chunks")[0]
    there = set(json.loads(listed))
    return [number for number in all_chunks(manifest) if number not in there]
