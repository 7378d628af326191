"""Several processes that must agree: what they know is compared, what goes wrong is told to all.

Only tensors travel (texts as their bytes); nothing is ever pickled.
"""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pkbook.basics.checks import is_finite_number

T = TypeVar("T")


class RankError(RuntimeError):
    """Another process failed, ended or did not answer: there is no result, on any process."""


class Processes:
    """The processes of a group, seen from one of them; a single process when there is no group.

    Every method but :meth:`pass_on` is called by all processes, in the same order.
    """

    def __init__(
        self,
        group: "dist.ProcessGroup | None",
        timeout: float | None,
        home: torch.device,
    ) -> None:
        self.group = group
        self.timeout = _checked_timeout(timeout)
        self.device = torch.device("cpu")
        running = dist.is_available() and dist.is_initialized()
        if group is not None and not running:
            raise ValueError(
                "group was given, but torch.distributed is not initialised in this process; "
                "call torch.distributed.init_process_group first, or leave group out"
            )
        self.index = dist.get_rank(group) if running else 0
        if self.index < 0:
            raise ValueError("group does not contain this process; call this on its members only")
        self.size = dist.get_world_size(group) if running else 1
        if self.size > 1 and dist.get_backend(group) == "nccl":  # it moves CUDA tensors only
            own = home.type == "cuda"
            self.device = home if own else torch.device("cuda", torch.cuda.current_device())

    def _wait(self, work: "dist.Work | None", what: str) -> None:
        try:
            if work is not None:
                work.wait(*(() if self.timeout is None else (self.timeout,)))
        except RuntimeError as error:
            raise self._lost(error, what) from error

    def _lost(self, error: Exception, what: str) -> RankError:
        limit = "the group's time-out" if self.timeout is None else f"{self.timeout}"
        return RankError(
            f"rank {self.index} of {self.size} lost another rank while {what}: it has ended, or "
            f"did not answer within {limit}; there is no result ({error})"
        )

    def _all_gather(self, own: Tensor, what: str) -> list[Tensor]:
        own = own.to(self.device)
        found = [torch.empty_like(own) for _ in range(self.size)]
        try:
            work = dist.all_gather(found, own, group=self.group, async_op=True)
        except RuntimeError as error:
            raise self._lost(error, what) from error
        self._wait(work, what)
        return [t.cpu() for t in found]

    def share(self, text: str, what: str) -> list[str]:
        """The texts of all processes, by rank."""
        if self.size == 1:
            return [text]
        own = torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8)
        lengths = [int(t) for t in self._all_gather(torch.tensor(len(own)), what)]
        if max(lengths) == 1:  # nobody has anything to say
            return [""] * self.size
        padded = own.new_zeros(max(lengths))
        padded[: len(own)] = own
        rows = self._all_gather(padded, what)
        return [bytes(row[: n - 1].tolist()).decode() for row, n in zip(rows, lengths, strict=True)]

    def together(self, what: str, function: Callable[[], T]) -> T:
        """Call ``function`` on every rank; where it fails on one, every rank raises.

        A rank's own error is raised as it is, that of another as :class:`RankError`.
        """
        error = None
        values: list[T] = []  # one, where nothing goes wrong
        try:
            values.append(function())
        except Exception as caught:
            error = caught
        try:
            told = self.share("" if error is None else f"{type(error).__name__}: {error}", what)
        finally:
            if error is not None:  # the first cause, also where nobody hears of it any more
                raise error
        for rank, text in enumerate(told):
            if text:
                raise RankError(f"rank {rank} failed while {what}, so no rank has a result: {text}")
        return values[0]

    def collect(self, what: str, function: Callable[[], str]) -> list[str]:
        """What ``function`` gives on each rank; where it fails on one, every rank raises."""
        return self.share(self.together(what, function), what)

    def agree(self, facts: dict[str, str]) -> None:
        """``ValueError`` on every rank, naming the first fact that is not the same on all."""
        told = self.share(json.dumps(facts), "comparing the arguments")
        first = json.loads(told[0])
        for rank, text in enumerate(told[1:], start=1):
            other = json.loads(text)
            for name in first | other:
                if first.get(name) != other.get(name):
                    raise ValueError(_difference(name, rank, first, other))

    def pass_on(self, own: Tensor | None, like: Tensor, owner: int, to: int | None) -> Tensor:
        """The tensor ``own`` of the rank ``owner``, with the shape of ``like``.

        ``to=None``: called by all processes and received by all; otherwise called by ``owner`` and
        ``to``, and received by ``to``.  All but ``owner`` give None as ``own``.
        """
        what = "collecting the tiles"
        if own is not None and (owner == to or self.size == 1):
            return own
        here = own is not None
        packet = like.to(self.device) if own is None else own.to(self.device).contiguous()
        try:
            if to is None:
                work = dist.broadcast(packet, group_src=owner, group=self.group, async_op=True)
            elif here:
                work = dist.isend(packet, group_dst=to, group=self.group)
            else:
                work = dist.irecv(packet, group_src=owner, group=self.group)
        except RuntimeError as error:
            raise self._lost(error, what) from error
        self._wait(work, what)
        return own if here else packet


def _checked_timeout(timeout: float | None) -> timedelta | None:
    if timeout is None:
        return None
    if not is_finite_number(timeout) or timeout <= 0:
        raise ValueError(
            f"timeout must be a positive number of seconds or None, got {timeout!r}; "
            "write timeout=600"
        )
    return timedelta(seconds=timeout)


def _difference(name: str, rank: int, first: dict[str, str], other: dict[str, str]) -> str:
    for has, lacks, facts in ((0, rank, other), (rank, 0, first)):
        if name not in facts:
            return (
                f"{name} is there on rank {has} but not on rank {lacks}; "
                "give all processes the same"
            )
    a, b = first[name], other[name]
    return (
        f"{name} differs between rank 0 ({a}) and rank {rank} ({b}); every rank must have the same "
        "model (load the same weights, or seed before it is made), inputs and arguments"
    )
