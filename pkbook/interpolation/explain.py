r"""Many predictions taken apart: chunk by chunk, on disk as soon as known, by one process or more.

:func:`pkbook.interpolate` holds what it finds, :math:`N` samples by :math:`m` queries by :math:`C`
outputs, and the averaged gradients of all its queries.  :func:`explain` takes a few queries apart
at a time, so that only these must fit in memory, and keeps each chunk before it begins the next.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm.auto import tqdm

from pkbook.basics.budget import LARGEST_DEFAULT, free_memory
from pkbook.basics.checks import evaluating, require_finite, require_whole
from pkbook.basics.fingerprints import digest, fingerprint
from pkbook.basics.parameters import trainable
from pkbook.basics.processes import Processes
from pkbook.basics.version import __version__
from pkbook.interpolation.chunks import (
    KIND,
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
from pkbook.interpolation.interpolate import take_apart
from pkbook.interpolation.options import DEFAULT, Options, Rule
from pkbook.interpolation.result import Interpolation
from pkbook.interpolation.unreached import Unreached
from pkbook.interpolation.walk import require_walk
from pkbook.kernels.asked import Inputs, asked, tensors_of
from pkbook.kernels.inputs import evaluate, selection
from pkbook.runs.recording import Recording

GRADIENTS = 4
"""Averaged gradients that one query and output hold at a time, about."""
COPIES = 5
"""Times that a chunk's result is there while it is written, as measured."""


def explain(
    run: Recording,
    x: Any,
    *,
    of: Any = None,
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

    def check() -> tuple[_Question, int]:
        if processes.size > 1 and folder is None:
            raise ValueError("folder must be given where several processes explain together")
        options = Options(
            rule, nodes, tolerance, most_pieces, by_parameter or layers, entries,
            by_token=by_token,
        )  # fmt: skip
        question = replace(_asked(run, x, of, outputs, options), keep=_checked_keep(keep, options))
        question.facts.update({} if keep is None else {"keep": keep})
        return question, _fitting(question, chunk, memory, processes.size)

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
    processes: Processes, question: "_Question", shelf: Shelf, manifest: dict, progress: bool
) -> Unreached:
    """Compute what is not there yet: in rounds, each process one chunk."""
    missing = _missing(processes, shelf, manifest)
    alone = len(all_chunks(manifest)) == 1  # then the bar is over its steps
    show = progress and processes.index == 0
    unreached = Unreached()

    def one(number: int) -> None:
        rows = rows_of(manifest, number)
        part = question.answer(rows, show and alone)
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


@dataclass(frozen=True)
class _Question:
    """What is asked, and how it is told apart from other questions."""

    run: Recording
    x: Inputs
    chosen: Tensor | None
    options: Options
    width: int
    """Outputs told of each query."""
    facts: dict
    keep: int | None = None

    def answer(self, rows: slice, progress: bool) -> Interpolation:
        home = self.run.device
        chosen = None if self.chosen is None else self.chosen[rows].to(home)
        told = take_apart(self.run, self.x[rows].to(home), chosen, self.options, progress)
        return told if self.keep is None else told.largest(self.keep)


def _checked_keep(keep: int | None, options: Options) -> int | None:
    if keep is not None and (options.by_parameter or options.by_token):
        raise ValueError("give keep, or by_parameter and by_token, not both")
    return None if keep is None else require_whole(keep, "keep")


def _asked(
    run: object, x: Any, of: Any, outputs: int | Tensor | None, options: Options
) -> _Question:
    """Check what can be checked before the work, and describe it for the manifest."""
    if not isinstance(run, Recording):
        raise TypeError(f"run must be a pkbook.Trajectory, got {type(run).__name__}")
    x = asked(x, of)
    first = (x[:1] if x.ndim else x).to(run.device)
    require_walk(run, first)
    for t in tensors_of(x):
        require_finite(t.detach(), "x")
    x = x.detach()
    chosen = selection(outputs, len(x), torch.device("cpu"))
    with evaluating(run.model):
        width = evaluate(run.model, first, trainable(run.model), None).shape[1]
    if chosen is not None:
        if int(chosen.min()) < -width or int(chosen.max()) >= width:
            raise ValueError(
                f"outputs must lie in 0..{width - 1} for this model, got "
                f"{int(chosen.min())}..{int(chosen.max())}"
            )
        chosen, width = chosen % width, 1
    facts = {
        "kind": KIND,
        "pkbook": __version__,
        "torch": torch.__version__,
        "run": _run_facts(run),
        "queries": {"number": len(x), "content": "; ".join(map(digest, tensors_of(x)))},
        "outputs": _described(chosen) if isinstance(x, Tensor) else f"{x.of}, {_described(chosen)}",
        "width": width,
        "options": _option_facts(options, run),
    }
    return _Question(run, x, chosen, options, width, facts)


def _option_facts(options: Options, run: Recording) -> dict:
    """The options as they stand in the manifest, where one left out equals its default.

    The folder says ``layers`` for ``by_parameter``: so folders from before go on to be read.
    """
    return {
        "rule": options.rule,
        "nodes": options.nodes,
        "tolerance": options.tolerance,
        "most_pieces": options.most_pieces,
        "layers": bool(options.by_parameter),
        "entries": list(options.entries_among(run.names)),
        **({"by_token": True} if options.by_token else {}),
    }


def _described(chosen: Tensor | None) -> str | int:
    if chosen is None:
        return "all"
    return int(chosen[0]) if bool((chosen == chosen[0]).all()) else f"by query, {digest(chosen)}"


def _run_facts(run: Recording) -> dict:
    """What the run says of itself, and where it ended."""
    parameters = dict(run.model.named_parameters())
    last = fingerprint(*(parameters[name] for name in run.names), *run.model.buffers())
    return run.facts() | {"steps": len(run), "last": last}


def _fitting(question: _Question, chunk: int | None, memory: int | None, processes: int) -> int:
    """The number of queries in a chunk."""
    if memory is not None:
        require_whole(memory, "memory")
    if chunk is not None:
        return require_whole(chunk, "chunk")
    need = _bytes_of_a_query(question)
    if memory is None:
        memory = min(free_memory(question.run.device) // (4 * processes), LARGEST_DEFAULT)
    elif memory < need:
        raise ValueError(
            f"memory must hold one query, about {need} bytes for this run, got {memory}"
        )
    return max(1, min(memory // need, -(-len(question.x) // processes)))


def _bytes_of_a_query(question: _Question) -> int:
    run = question.run
    own = {name: p for name, p in run.model.named_parameters() if name in run.names}
    gradients = sum(p.numel() * p.element_size() for p in own.values())
    samples = run.samples * (1 + len(own) * bool(question.options.by_parameter))
    steps = sum(len(record.batch) for record in run.store.steps)
    return question.width * (GRADIENTS * gradients + COPIES * 8 * (samples + steps))
