r"""A training loop that belongs to somebody else, recorded by what can be seen of it.

The loop calls the model and steps the optimizer; a :class:`Loop` hooks into both.  At the first
forward pass of a step it notes the random numbers and the autocast that the pass begins with, at
the optimizer's step the hyperparameters.  Which samples a pass was made of it must be told:
:meth:`Loop.saw`, or a sampler that it watches.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pkbook.basics.checks import is_finite_number, require_finite
from pkbook.runs.batches import sample_numbers
from pkbook.runs.conditions import Conditions, autocast_now, states

if TYPE_CHECKING:
    from pkbook.runs.recording import Recording


def unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer in what Accelerate and Lightning put around it."""
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def uncompiled(model: Any) -> Any:
    """The module in what ``torch.compile`` put around it."""
    return getattr(model, "_orig_mod", model)


def division_of(optimizer: Any) -> Callable[[], float] | None:
    """What ``Accelerator.backward`` divides each loss by; 0 where it does not accumulate.

    A short last step is divided by the same number.
    """
    state = getattr(optimizer, "gradient_state", None)
    if state is None:
        return None
    return lambda: float(state.num_steps) if state.num_steps > 1 else 0.0


@dataclass
class Seen:
    """Samples that a pass was, or will be, made of."""

    numbers: Tensor
    batch: Any = None
    divided_by: float = 0.0
    after: int = 0
    """Passes of the step that had been made when this was told."""


@dataclass
class Pass:
    """A forward pass: how it began."""

    random: tuple[str, ...]
    autocast: str
    cache: bool
    training: list[str]


class Loop:
    """Watches a loop and records its steps in a run.

    With ``passes=False`` whoever owns the loop says where each pass begins, by :meth:`begin`; with
    ``steps=False`` also where the gradients of a step are complete, by :meth:`complete`.
    """

    def __init__(
        self,
        run: "Recording",
        scaler: Any = None,
        *,
        divided_by: Callable[[], float] | None = None,
        called: nn.Module | None = None,
        passes: bool = True,
        steps: bool = True,
    ) -> None:
        """``divided_by``: what losses are divided by where :meth:`saw` is not told; ``called``:
        what the loop calls, where that is not the model itself."""
        self.run, self.scaler, self.divided_by = run, scaler, divided_by
        self.called = run.model if called is None else called
        self.told: deque[Seen] = deque()
        self.watched: deque[Tensor] | None = None
        self.passes: list[Pass] = []
        self._witness: Callable | None = None
        self._tensors = [*run.model.parameters(), *run.model.buffers()]
        self._after_step: list[tuple[int, int]] = []
        self._handles = [run.optimizer.register_step_post_hook(self._hook(self._after))]
        if passes:
            hook = self._hook(self._forward)
            self._handles.append(self.called.register_forward_pre_hook(hook))
        if steps:
            self._handles.append(run.optimizer.register_step_pre_hook(self._hook(self._before)))

    @staticmethod
    def _hook(method: Callable) -> Callable:
        """A plain function, which a deep copy of the model does not copy with all that it holds."""

        def hook(*arguments: Any) -> None:
            method(*arguments)

        hook.of_pkbook = True  # pyright: ignore[reportFunctionMemberAccess]
        return hook

    def _places(self) -> list[tuple[int, int]]:
        """Where parameters and buffers are, and how often each was changed in place."""
        return [(t.data_ptr(), -1 if t.is_inference() else t._version) for t in self._tensors]

    @property
    def unchanged(self) -> bool:
        """Whether the model is as the last step left it, as far as torch counts changes."""
        return self._places() == self._after_step

    def end(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()

    def saw(self, numbers: Any, batch: Any = None, divided_by: float | None = None) -> None:
        """The next or last forward pass is of these samples; see :meth:`Recording.saw`."""
        if divided_by is not None and not (is_finite_number(divided_by) and divided_by > 0):
            raise ValueError(f"divided_by must be a positive number or None, got {divided_by!r}")
        numbers = sample_numbers(numbers, self.run.samples)
        self.told.append(Seen(numbers, batch, divided_by or self._usual(), len(self.passes)))

    def _usual(self) -> float:
        return 0.0 if self.divided_by is None else self.divided_by()

    def watch(self, batch_sampler: Iterable) -> "Watched":
        """The same batches of sample numbers, noted as they are given out."""
        return Watched(self, batch_sampler)

    def _forward(self, model: nn.Module, _inputs: Any) -> None:
        if model is not self.called or not torch.is_grad_enabled():
            return  # a copy, or no training
        if self.passes and self._dropped():
            self._forget()
        self._note_pass()
        if self.watched is not None and len(self.told) < len(self.passes):
            self._next_watched()

    def begin(self, numbers: Any, batch: Any, divided_by: float) -> None:
        """The loss of this batch is computed next, and divided by a number."""
        self.saw(numbers, batch, divided_by)
        self._note_pass()

    def _note_pass(self) -> None:
        if not self.passes:
            self._witness = self.run.begin_step()
        device = self.run.device
        training = [name for name, m in self.run.model.named_modules() if m.training]
        cache = torch.is_autocast_cache_enabled()
        self.passes.append(Pass(states(device), autocast_now(device), cache, training))

    def _forget(self) -> None:
        """The scaler has left out the step that the passes were for; keep what is told for now."""
        ahead = bool(self.told) and self.told[0].after == 0  # told before the passes, not behind
        count = len(self.passes)
        self.told = deque(seen for seen in self.told if ahead and seen.after == count)
        for seen in self.told:
            seen.after = 0
        self.passes.clear()

    def _next_watched(self) -> None:
        if not self.watched:
            raise ValueError(
                "the loop made a forward pass of a batch that the watched sampler has not given "
                "out; give that sampler to the DataLoader, batch_sampler=..., or call run.saw"
            )
        self.told.append(Seen(self.watched.popleft(), divided_by=self._usual()))

    def _dropped(self) -> bool:
        """Whether the gradients of the passes so far were thrown away."""
        if self.scaler is None:
            return False
        grads = [p.grad for group in self.run.optimizer.param_groups for p in group["params"]]
        return all(g is None or not bool(g.any()) for g in grads)

    def _before(self, optimizer: torch.optim.Optimizer, arguments: tuple, options: dict) -> None:
        if optimizer is not self.run.optimizer:
            return
        if any(a is not None for a in (*arguments[1:], *options.values())):
            raise ValueError(
                "optimizer.step must be called without a closure, which calls the loss again in "
                "the middle of the step"
            )
        self.complete()

    def complete(self) -> None:
        """The gradients of a step are complete, and its hyperparameters set: record it."""
        if self.run.several is not None:
            self.run.several.keep_step(self.run, self._seen)
            return
        parts, training, conditions, given = self._seen()
        self.run.keep_step(self.run.record_of(parts, training, conditions), given)

    def _seen(self) -> tuple[list[Tensor], list[str], list[Conditions], list[Any]]:
        """Of the step made now: numbers, train mode, conditions, and batches that were given."""
        k = len(self.run)
        self._require_told(k)
        for name, p in self.run.model.named_parameters():
            if p.grad is not None:
                require_finite(p.grad, f"the gradient of {name!r} at step {k}")
        told = list(self.told)
        numbers, given = [seen.numbers for seen in told], [seen.batch for seen in told]
        return numbers, self.passes[0].training, self._conditions(told), given

    def _require_told(self, k: int) -> None:
        if not self.told:
            raise ValueError(
                f"step {k} is made of samples that nobody has told; call run.saw(numbers) for "
                "each batch before optimizer.step(), or let run.watch(batch_sampler) tell them"
            )
        if not self.passes or len(self.passes) % len(self.told):
            raise ValueError(
                f"step {k} must have as many forward passes as run.saw was called, got "
                f"{len(self.passes)} passes and {len(self.told)} calls"
            )

    def _conditions(self, told: list[Seen]) -> list[Conditions]:
        """Of each micro-batch: those that its first forward pass began with."""
        each = len(self.passes) // len(told)
        firsts = self.passes[::each]
        ends = [p.random for p in firsts[1:]] + [states(self.run.device)]
        scale = 1.0 if self.scaler is None else float(self.scaler.get_scale())
        return [
            Conditions(
                () if p.random == end else p.random,
                p.autocast,
                seen.divided_by,
                scale,
                p.cache or not p.autocast,
            )
            for p, end, seen in zip(firsts, ends, told, strict=True)
        ]

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if optimizer is not self.run.optimizer:
            return
        witness, self._witness = self._witness, None
        self.passes.clear()
        self.told.clear()
        self.run.end_step()
        self._after_step = self._places()
        if witness is not None:
            witness()


class Watched:
    """A sampler of batches whose numbers a loop is told in the order in which they go out."""

    def __init__(self, loop: Loop, batch_sampler: Iterable) -> None:
        self.loop, self.sampler = loop, batch_sampler

    def __iter__(self) -> Iterator[list[int]]:
        self.loop.watched = out = deque()
        for batch in self.sampler:
            out.append(sample_numbers(list(batch), self.loop.run.samples))
            yield batch

    def __len__(self) -> int:
        return len(self.sampler)  # pyright: ignore[reportArgumentType]
