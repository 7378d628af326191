r"""A step made again at once, so that a fault of a run is told before its training, not after.

A run can be taken apart where each of its steps follows from its record: the parameters before it,
the sample numbers, a seed, the hyperparameters.  What else has a hand in a step (a context around
it, a hook, a counter in ``forward``) is on no record.  A :class:`Witness` looks at the run before a
step, makes that step again on a copy after it, and names what it knows to have been otherwise.
"""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pkbook.basics.randomness import kept, others_kept, seeded
from pkbook.runs.copies import copied
from pkbook.runs.loss_rows import LossRows, require_cut
from pkbook.runs.optimizers import StepState, rule_of
from pkbook.runs.replay import Replay
from pkbook.runs.several import rounded
from pkbook.runs.snapshot import Difference, ReplayError, difference, put_back, snapshot
from pkbook.runs.steps import batches_of, parts_of

ADVICE = "; check=False records such a run all the same, and it can then not be taken apart"


def due(k: int, every: int, first: bool, own: bool) -> bool:
    """Whether step ``k`` is made again: the first, and with ever longer breaks one of the others.

    ``first``: no step was made before in this process.  Of an own optimizer also the second, as
    only that one meets a memory that is not zero.

    >>> [k for k in range(10_000) if due(k, every=50, first=k == 0, own=False)]
    [0, 50, 500, 5000]
    """
    if first or (own and k == 1):
        return True
    number, rest = divmod(k, every)
    while number and number % 10 == 0:
        number //= 10
    return rest == 0 and number == 1


class Watch:
    """Has the first step of a run made again, and one step now and then."""

    def __init__(self, every: int, on: bool) -> None:
        self.every, self.on = every, on
        self.begun = False
        self.after: dict[str, Tensor] | None = None
        """The state after the step that was made again last, up to the next step."""

    def begin(self, k: int, replay: Replay, model: nn.Module, optimizer: Optimizer) -> Callable:
        """Look at the run before step ``k``; what is returned is to be called after it.

        ``ReplayError`` where the state is not that on record.
        """
        if not self.on:
            return _nothing
        then, self.after = self.after, None
        if k == 0:
            then = replay.store.load(0)
        if then is not None:
            _require_unchanged(then, snapshot(model, optimizer), k)
        first, self.begun = not self.begun, True
        if not due(k, self.every, first, rule_of(optimizer).own):
            return _nothing
        witness = Witness(replay, model, optimizer)

        def end() -> None:
            self.after = witness.require_replay(k)

        return end


def _nothing() -> None:
    """No step is watched."""


class Witness:
    """The run before a step, to be compared with the same step made again."""

    def __init__(self, replay: Replay, model: nn.Module, optimizer: Optimizer) -> None:
        self.replay, self.model, self.optimizer = replay, model, optimizer
        self.device = replay.problem.source.device
        self.before = {name: t.detach().clone() for name, t in snapshot(model, optimizer).items()}
        self.autocast = any(map(torch.is_autocast_enabled, {"cpu", self.device.type}))
        self.drawn = _random_states(self.device)
        self.attributes = _attributes(model)
        self.data = replay.problem.source.versions()

    def require_replay(self, k: int) -> dict[str, Tensor]:
        """Make step ``k`` again; the state after it, of the copy.

        ``ReplayError`` where it does not come to the same, ``ValueError`` where the rule of an own
        optimizer is wrong.
        """
        end = snapshot(self.model, self.optimizer)
        drawn = _random_states(self.device)
        attributes = _attributes(self.model)
        with _as_later(self.device):
            model, optimizer = copied(self.model, self.optimizer)
            self._require_cut(k, model)
            put_back(self.before, model, optimizer)
            state, loss = self.replay.repeat(k, model, optimizer)
            again = snapshot(model, optimizer)
            found = difference(end, again)
            then = self.replay.store.steps[k].loss
            told = not math.isnan(then)  # the loss of a loop that is not ours is not seen
            if found is not None and "processes" in self.replay.elsewhere:
                if rounded(self.model, model, end, again):
                    found = None
                    again = {name: t.detach().clone() for name, t in end.items()}
            if (told and loss != then) or found is not None:
                why = self._cause(k, drawn, attributes, model)
                raise ReplayError(_told(k, loss, then, found) + why + ADVICE)
            if rule_of(optimizer).own:
                _require_rule(state, model, optimizer, self.before)
        return again

    def _require_cut(self, k: int, model: nn.Module) -> None:
        """A loss of (model, batch) that is one number must belong to the samples all the same."""
        problem, record = self.replay.problem, self.replay.store.steps[k]
        if not problem.of_batch:
            return
        part, batch = parts_of(record)[0], batches_of(problem, record)[0]
        rows = LossRows(problem)
        with torch.enable_grad(), seeded(part.seed, self.device):
            f = rows.of_batch(model, batch)
            if rows.value is None:
                return
            if len(f) != len(part.numbers):
                raise ValueError(
                    f"model must return one row per sample [{len(part.numbers)}, ...] where the "
                    f"loss is one number, got {len(f)} rows; return one loss per sample, [n]"
                )
            leaves = [p for p in model.parameters() if p.requires_grad]
            require_cut(rows.value, f, rows.slope_of_batch(f), leaves)

    def _cause(self, k: int, drawn: dict, attributes: dict, model: nn.Module) -> str:
        """The first of the known causes, in words."""
        if self.autocast:
            return (
                "autocast was on around step(), and is not when a step is made again; write "
                "'with torch.autocast(...)' inside the model's forward"
            )
        return (
            self._hooks()
            or self._of_the_loop(k, model)
            or self._random(drawn)
            or self._of_the_loss(k, model)
            or self._changed(attributes)
            or "something else than the batch, its seed and the hyperparameters has a hand in a "
            "step, such as an operation that is not deterministic "
            "(torch.use_deterministic_algorithms(True) names it)"
        )

    def _hooks(self) -> str:
        for name, p in self.model.named_parameters():
            if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None):
                return (
                    f"parameter {name!r} has a gradient hook, which a copy of the model does not "
                    "have; write clip_norm= or clip_value= for clipping, or change the loss"
                )
        optimizer = self.optimizer
        hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
        if any(not hasattr(hook, "of_pkbook") for kind in hooks for hook in kind.values()):
            return "the optimizer has hooks around its step, which a copy of it does not have"
        return ""

    def _of_the_loop(self, k: int, model: nn.Module) -> str:
        """What a loop that is not ours did with the gradients between loss and step."""
        record = self.replay.store.steps[k]
        if not record.passes:
            return ""
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        both = [(p.grad.flatten(), q.grad.flatten()) for p, q in pairs
                if p.grad is not None and q.grad is not None]  # fmt: skip
        theirs, ours = (torch.cat(grads).double() for grads in zip(*both, strict=True))
        factor = float((theirs @ ours) / (ours @ ours))
        if bool((theirs - factor * ours).norm() <= 1e-3 * theirs.norm()):
            return (
                f"the loop stepped with {factor:.4g} times the gradient of this loss: a clipping "
                "that nobody told (give clip_norm= to record), or another division of accumulated "
                "losses (run.saw(numbers, divided_by=...))"
            )
        return (
            "the loop stepped with another gradient than that of this loss for these samples; "
            "where its batches are drawn at random, give them too: run.saw(numbers, batch)"
        )

    def _random(self, drawn: dict) -> str:
        for source, advice in (
            ("numpy", "draw with torch inside forward instead"),
            ("random", "draw with torch inside forward instead"),
            ("torch", "only forward has a seed of its own, so draw there and not in the loss"),
        ):
            if drawn[source] != self.drawn[source]:
                return f"the step drew from the global random numbers of {source}; {advice}"
        return ""

    def _changed(self, attributes: dict) -> str:
        if self.replay.problem.source.versions() != self.data:
            return "the data were changed in place during the step"
        for (layer, name), value in attributes.items():
            if self.attributes.get((layer, name)) != value:
                return (
                    f"forward changes the attribute {name!r} of layer {layer or 'model'!r}; keep "
                    f"such a state in a buffer, self.register_buffer({name!r}, torch.tensor(...))"
                )
        return ""

    def _of_the_loss(self, k: int, model: nn.Module) -> str:
        problem, record = self.replay.problem, self.replay.store.steps[k]
        if problem.of_batch:
            return ""
        part, batch = parts_of(record)[0], batches_of(problem, record)[0]
        try:
            with torch.enable_grad(), seeded(part.seed, self.device):
                outputs, targets = problem.outputs(model, batch)
                outputs, n = outputs.detach(), len(part.numbers)
                first, second = (problem.of_outputs(outputs, targets, n).mean() for _ in range(2))
        except RuntimeError:  # a loss that differentiates, say, can have no outputs without a graph
            return ""
        if first.requires_grad:
            return (
                "the loss reads parameters (a penalty, say), and a copy of the model has others; "
                "write weight_decay= of the optimizer, or let it see outputs and targets alone"
            )
        if not torch.equal(first.detach(), second.detach()):
            return "the loss gives another value when it is called again with the same outputs"
        return ""


def _require_unchanged(then: dict[str, Tensor], now: dict[str, Tensor], k: int) -> None:
    """``ReplayError`` where something was changed since the step before step ``k``."""
    found = difference(then, now)
    if found is not None:
        raise ReplayError(
            f"{found.name} was changed outside of step() before step {k}, by {found.size:.2g} of "
            "its size, which is on no record (a call of the model in train mode moves its running "
            "statistics; weights that are clamped between the steps)" + ADVICE
        )


def _told(k: int, loss: float, then: float, found: Difference | None) -> str:
    what = f"its loss is {loss}, and was {then}"
    if (loss == then or math.isnan(then)) and found is not None:
        what = f"{found.name} is off by {found.size:.2g} of its size"
    return f"step {k} was made, but made again from its record it is another one: {what}. Cause: "


def _random_states(device: torch.device) -> dict[str, object]:
    """The global generators' states, as values that can be compared."""
    numbers = np.random.get_state()  # noqa: NPY002 - the global one is meant
    states = [torch.default_generator.get_state().numpy().tobytes()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device).numpy().tobytes())
    return {
        "numpy": [n.tobytes() if isinstance(n, np.ndarray) else n for n in numbers],
        "random": random.getstate(),
        "torch": states,
    }


@contextmanager
def _as_later(device: torch.device) -> Iterator[None]:
    """As when a run is taken apart: without autocast. Global random numbers stay as they are."""
    with ExitStack() as stack:
        stack.enter_context(others_kept())
        stack.enter_context(kept(device))
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _attributes(model: nn.Module) -> dict[tuple[str, str], object]:
    """What the layers keep in plain attributes: values, and which tensors, in which version."""
    found = {}
    for layer, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                found[layer, name] = (id(value), *_versions(value))
            elif name != "training" and isinstance(value, int | float | str | None):
                found[layer, name] = value
    return found


def _versions(*tensors: Tensor) -> tuple[int, ...]:
    """How often each was changed in place; tensors of inference mode do not count."""
    return tuple(-1 if t.is_inference() else t._version for t in tensors)


def _require_rule(
    state: StepState, model: nn.Module, optimizer: Optimizer, before: dict[str, Tensor]
) -> None:
    """Compare what a registered rule says of a step with what the optimizer did in it."""
    key = rule_of(optimizer).memory
    for name, p in model.named_parameters():
        if name not in state.coefficients or p.grad is None:
            continue
        c, theta = state.coefficients[name], state.parameters[name]
        entering = c.entering(p.grad, theta)
        memory = torch.zeros_like(theta)
        if key is not None:
            past = before.get(f"optimizer/{name}/{key}", memory)
            told, memory = c.remembered(past, entering), optimizer.state[p][key]
            _require_close(told, memory, 0.0, f"the memory of {name!r}", optimizer)
        told, did = c.move(memory, entering, theta), p.detach() - theta
        rounding = 8 * torch.finfo(p.dtype).eps * float(theta.abs().max())
        _require_close(told, did, rounding, f"the step of {name!r}", optimizer)


def _require_close(told: Tensor, did: Tensor, slack: float, what: str, optimizer) -> None:
    gap = float((told - did).abs().max())
    if not gap <= 1e-3 * float(did.abs().max()) + slack:
        raise ValueError(
            f"the rule registered for {type(optimizer).__name__} must say what it does, got "
            f"{what} off by {gap:.2g}, where it is up to {float(did.abs().max()):.2g}; compare "
            "the coefficients with the formula in pkbook.runs.register"
        )
