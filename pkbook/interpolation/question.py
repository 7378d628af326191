"""What is asked of a run, how it is told apart from other questions, and how much of it fits."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pkbook.basics.budget import LARGEST_DEFAULT, free_memory
from pkbook.basics.checks import (
    evaluating,
    require_choice,
    require_finite,
    require_whole,
)
from pkbook.basics.fingerprints import digest, fingerprint
from pkbook.basics.parameters import trainable
from pkbook.basics.version import __version__
from pkbook.interpolation.chunks import KIND
from pkbook.interpolation.effect import Influence
from pkbook.interpolation.influence import influence
from pkbook.interpolation.interpolate import take_apart
from pkbook.interpolation.options import DEFAULT, Options
from pkbook.interpolation.result import Interpolation
from pkbook.interpolation.walk import require_walk
from pkbook.kernels.asked import Inputs, asked, tensors_of
from pkbook.kernels.inputs import evaluate, selection
from pkbook.runs.recording import Recording

Kind = Literal["contributions", "influence"]
KINDS = get_args(Kind)
CONTRIBUTIONS: Kind = "contributions"
GRADIENTS = 4
"""Averaged gradients that one query and output hold at a time, about."""
ADJOINT = 9
"""The same for an influence: the adjoint of parameters, memory and squares, before and after a
step, and what is pulled through it."""
COPIES = 5
"""Times that a chunk's result is there while it is written, as measured."""


@dataclass(frozen=True)
class Question:
    """What is asked, and how it is told apart from other questions."""

    run: Recording
    x: Inputs
    chosen: Tensor | None
    options: Options
    width: int
    """Outputs told of each query."""
    facts: dict
    keep: int | None = None
    kind: Kind = CONTRIBUTIONS

    def answer(self, rows: slice, progress: bool) -> Interpolation | Influence:
        home = self.run.device
        chosen = None if self.chosen is None else self.chosen[rows].to(home)
        x, split = self.x[rows].to(home), self.options.by_parameter
        if self.kind != CONTRIBUTIONS:
            return influence(self.run, x, outputs=chosen, by_parameter=split, progress=progress)
        told = take_apart(self.run, x, chosen, self.options, progress)
        return told if self.keep is None else told.largest(self.keep)


def require_kind(kind: str, options: Options, keep: int | None) -> None:
    """``ValueError`` for another word, and for options that an influence does not have."""
    require_choice(kind, "kind", KINDS)
    plain = replace(options, by_parameter=DEFAULT.by_parameter)
    if kind != CONTRIBUTIONS and (plain != DEFAULT or keep is not None):
        raise ValueError(
            "kind='influence' has no quadrature, entries, tokens or keep; leave these options out"
        )


def checked_keep(keep: int | None, options: Options) -> int | None:
    if keep is not None and (options.by_parameter or options.by_token):
        raise ValueError("give keep, or by_parameter and by_token, not both")
    return None if keep is None else require_whole(keep, "keep")


def question_of(
    run: object, x: Any, of: Any, outputs: int | Tensor | None, options: Options
) -> Question:
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
    return Question(run, x, chosen, options, width, facts)


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


def fitting(question: Question, chunk: int | None, memory: int | None, processes: int) -> int:
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


def _bytes_of_a_query(question: Question) -> int:
    run = question.run
    own = {name: p for name, p in run.model.named_parameters() if name in run.names}
    gradients = sum(p.numel() * p.element_size() for p in own.values())
    samples = run.samples * (1 + len(own) * bool(question.options.by_parameter))
    steps = sum(len(record.batch) for record in run.store.steps)
    held = GRADIENTS if question.kind == CONTRIBUTIONS else ADJOINT
    return question.width * (held * gradients + COPIES * 8 * (samples + steps))
