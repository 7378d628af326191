r"""One model that several processes train together, recorded as one run.

Under ``DistributedDataParallel`` each of :math:`W` processes follows the gradient of its own
samples, and all of them step with the mean.  Such a step is that of one process that accumulates
micro-batches: its record holds the samples of all, process by process, and is made again without
``torch.distributed``, wherever the run is opened.  Each process draws its random numbers from the
seed of its own micro-batch, as the replay does.

With two processes a replay adds the same numbers, so it is the same bit for bit.  With more the sum
over processes is taken in another order, and the replay's distance is measured, as that of a run
from another machine.
"""

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pkbook.basics.fingerprints import fingerprint
from pkbook.basics.parameters import sum_of
from pkbook.basics.processes import Processes
from pkbook.runs.conditions import Conditions
from pkbook.runs.environment import environment
from pkbook.runs.optimizers import settings_of
from pkbook.runs.records import StepRecord
from pkbook.runs.snapshot import snapshot
from pkbook.runs.steps import Part, clipped, part_seed, require_finite_loss, run_part, step_seed

if TYPE_CHECKING:
    from pkbook.runs.recording import Recording

T = TypeVar("T")


def several_of(model: object) -> "Several | None":
    """The processes that a model is trained by, if they are several."""
    return Several(model) if isinstance(model, DistributedDataParallel) else None


class Several:
    """The processes that train one model, seen from one of them.

    What may fail on one of them is done before the others wait for it: all raise, none hangs.
    """

    def __init__(self, ddp: DistributedDataParallel) -> None:
        self.ddp = ddp
        self.processes = Processes(ddp.process_group, None, next(ddp.parameters()).device)
        self.index, self.size = self.processes.index, self.processes.size
        self.together = self.processes.together

    def agree(self, run: "Recording") -> None:
        """``ValueError`` on all processes where they train different runs."""
        facts = {name: json.dumps(fact) for name, fact in run.facts().items()}
        state = sorted(snapshot(run.model, run.optimizer).items())
        facts["state"] = fingerprint(*(t for _, t in state))
        self.processes.agree(facts)

    def step(
        self, run: "Recording", batch: Any
    ) -> tuple[StepRecord, Callable[[], Tensor], Callable[[], None]]:
        """The next step: its record, what puts its gradients in place, what is to be done after.

        ``batch`` are the samples of this process; the record has those of all.
        """
        k, own = len(run), []

        def prepare() -> dict:
            self.require_exact()
            parts = self._own(run, [n.tolist() for n in run.numbers_of(batch)])
            own.append(run.begin_step())
            batches, contents = self._fetched(run, parts)
            own.extend((parts, batches))
            told = self._told(run, parts, [name for name, m in _training(run.model)])
            return told | {"contents": contents, "items": run.problem.items(batches)}

        told = self._collect(f"preparing step {k}", prepare)
        made, parts, batches = own
        record = replace(self._record(run, told), contents=_joined(told, "contents"))
        items = _joined(told, "items")
        return record, lambda: self._descend(run, record, parts, batches, items), made

    def keep_step(self, run: "Recording", look: Callable[[], tuple]) -> None:
        """Keep a step of a loop that is not ours; ``look`` gives what this process saw of it."""
        k = len(run)

        def prepare() -> dict:
            self.require_exact()
            numbers, training, conditions, given = look()
            parts = self._own(run, [n.tolist() for n in numbers])
            contents = self._kept_or_fetched(run, parts, given)
            passes = [self._of_all(under).as_json() for under in conditions]
            told = self._told(run, parts, training)
            return told | {"contents": contents, "passes": passes}

        told = self._collect(f"keeping step {k}", prepare)
        passes = [Conditions(**under) for under in _joined(told, "passes")]
        record = self._record(run, told, passes)
        run.store.append(replace(record, loss=math.nan, contents=_joined(told, "contents")))

    def _collect(self, what: str, function: Callable[[], dict]) -> list[dict]:
        """What ``function`` gives on each process; where it fails on one, all raise."""
        return [json.loads(text) for text in
                self.processes.collect(what, lambda: json.dumps(function()))]  # fmt: skip

    def _own(self, run: "Recording", numbers: list[list[int]]) -> list[Part]:
        """The micro-batches of this process, with the seeds that they have among all."""
        seed, first = step_seed(run.seed, len(run)), self.index * len(numbers)
        return [Part(own, part_seed(seed, first + i)) for i, own in enumerate(numbers)]

    @staticmethod
    def _fetched(run: "Recording", parts: list[Part]) -> tuple[list[Any], list[str]]:
        found = [run.problem.source.fetch(part.numbers, part.drawn_seed) for part in parts]
        return [batch for batch, _ in found], [c for _, contents in found for c in contents]

    def _kept_or_fetched(self, run: "Recording", parts: list[Part], given: list[Any]) -> list[str]:
        contents = []
        for part, batch in zip(parts, given, strict=True):
            if batch is None:
                contents += self._fetched(run, [part])[1]
            elif self.size > 1 and run.kept.folder is None:
                raise ValueError(
                    "batches of several processes are kept in a folder that all of them see, got "
                    "none; write pkbook.record(..., folder=...)"
                )
            else:
                run.kept.keep(part.drawn_seed, batch)
        return contents

    def _of_all(self, under: Conditions) -> Conditions:
        """A loss is divided by the number of processes as well, by taking their mean."""
        return replace(under, divided_by=under.divided_by * self.size)

    @staticmethod
    def _told(run: "Recording", parts: list[Part], training: list[str]) -> dict:
        alike = {
            "number of steps": len(run),
            "hyperparameters": settings_of(run.optimizer),
            "train mode": training,
            "number of micro-batches": len(parts),
        }
        return {"alike": alike, "numbers": [list(part.numbers) for part in parts]}

    def _record(
        self, run: "Recording", told: list[dict], passes: list[Conditions] | None = None
    ) -> StepRecord:
        """The record of a step, by what all processes told."""
        first = told[0]["alike"]
        for rank, other in enumerate(told[1:], start=1):
            for name, value in first.items():
                if other["alike"][name] != value:
                    raise ValueError(
                        f"the {name} must be the same on all processes before step {len(run)}, "
                        f"got {value} on rank 0 and {other['alike'][name]} on rank {rank}; do on "
                        "each process what is done on one"
                    )
        parts = [torch.tensor(numbers) for t in told for numbers in t["numbers"]]
        record = run.record_of(parts, first["train mode"], passes or [])
        if self.size == 1:
            return record
        record = replace(record, processes=self.size)
        if self.size == 2:
            return record
        run.elsewhere["processes"] = (self.size, 1)
        return replace(record, place=environment(run.device) | {"processes": self.size})

    def _descend(
        self,
        run: "Recording",
        record: StepRecord,
        parts: list[Part],
        batches: list[Any],
        items: list[float],
    ) -> Tensor:
        """Put the gradients of all processes in place; the loss over the samples of all."""
        k, kinds = len(run), []
        run.optimizer.zero_grad()

        def forward() -> list[float]:
            """Up to the backward pass in which the processes meet."""
            seen = []
            for i, (part, batch) in enumerate(zip(parts, batches, strict=True)):
                last = i == len(parts) - 1
                with nullcontext() if last else self.ddp.no_sync(), torch.enable_grad():
                    losses = run_part(run.problem, part, batch, self.ddp)
                    j = self.index * len(parts) + i
                    own, value = self._reduced(run, losses, items, j, len(parts))
                    require_finite_loss(value, k, part)
                    if not last:
                        own.backward()
                kinds[:] = [own, value]
                seen.append(value.item())
            return seen

        told = self.processes.collect(f"following step {k}", lambda: json.dumps(forward()))
        own, value = kinds
        own.backward()
        clipped(run.problem, run.model, run.optimizer, k)
        return sum_of(value.new_tensor(v) for text in told for v in json.loads(text))

    def _reduced(
        self, run: "Recording", losses: Tensor, items: list[float], j: int, each: int
    ) -> tuple[Tensor, Tensor]:
        """What this process follows with micro-batch ``j``, and what the micro-batch is of all."""
        problem = run.problem
        value = problem.reduced(losses.detach(), each * self.size, items, j)
        if problem.reduction == "mean":
            return problem.reduced(losses, each, items, j), value
        return problem.reduced(losses, 1, items, j) * self.size, value

    def require_exact(self) -> None:
        """``ValueError`` for what makes the step another one than that of the whole batch."""
        hook = self.ddp._get_ddp_logging_data().get("comm_hook")
        if hook:
            raise ValueError(
                f"DistributedDataParallel must have no communication hook, got {hook!r}: it "
                "changes the gradients on their way, which is on no record; do not register it"
            )
        if not self.ddp.require_backward_grad_sync:
            raise ValueError(
                "step must be made outside of no_sync(), in which the processes do not share "
                "their gradients; write run.step([first, second]) to accumulate"
            )
        for name, module in _training(self.ddp.module):
            if getattr(module, "running_mean", None) is not None or isinstance(
                module, nn.modules.batchnorm._BatchNorm
            ):
                raise ValueError(
                    f"layer {name!r} ({type(module).__name__}) must be in eval mode where several "
                    "processes train: its statistics are those of one process's samples, or mix "
                    "the samples of all; write nn.GroupNorm or nn.LayerNorm instead"
                )


def _joined(told: list[dict], name: str) -> list:
    """Of all processes, in their order."""
    return [value for of_one in told for value in of_one[name]]


def _training(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if module.training]


def require_fitting(ddp: DistributedDataParallel, names: list[str]) -> None:
    """``ValueError`` for options under which gradients are not shared, or not as they are."""
    if ddp.mixed_precision is not None:
        raise ValueError(
            "DistributedDataParallel must have no mixed_precision=, got one: the model computes "
            "with other parameters than its own; write 'with torch.autocast(...)' in forward"
        )
    left_out = sorted(set(names) & set(ddp.parameters_to_ignore))
    if left_out:
        raise ValueError(
            f"DistributedDataParallel must share the gradients of all trained parameters, but it "
            f"ignores {left_out[0]!r}; leave it out of the optimizer"
        )


def rounded(
    model: nn.Module, again: nn.Module, end: dict[str, Tensor], copy: dict[str, Tensor]
) -> bool:
    """Whether a step of several processes is the same up to the order of their sum.

    The gradients, which are still in place, must be close; what no gradient moves, the same.  The
    step itself says less: Adam's first one follows the sign of a gradient that may be all rounding.
    """
    pairs = list(zip(model.parameters(), again.parameters(), strict=True))
    if any((p.grad is None) != (q.grad is None) for p, q in pairs):
        return False
    grads = [(p.grad, q.grad) for p, q in pairs if p.grad is not None and q.grad is not None]
    off = sum(float((g.double() - h.double()).square().sum()) for g, h in grads) ** 0.5
    size = sum(float(g.double().square().sum()) for g, _ in grads) ** 0.5
    within = max([1e-3, *(8 * torch.finfo(g.dtype).eps for g, _ in grads)])
    moved = {f"parameter/{n}" for n, p in model.named_parameters() if p.grad is not None}
    same = all(
        torch.equal(t, copy[name])
        for name, t in end.items()
        if name not in moved and not name.startswith("optimizer/")
    )
    return same and off <= within * size
