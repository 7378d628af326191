r"""Gradient kernels on several processes: each computes a share of the matrix.

Who computes what is decided in :mod:`pkbook.kernels.blocks`.  Then the tiles travel to where they
are wanted: to all processes, to the first one, or row by row to the process that keeps the row.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypedDict, Unpack, overload

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pkbook.basics.budget import LARGEST_DEFAULT, free_memory
from pkbook.basics.checks import require_inputs, require_module
from pkbook.basics.fingerprints import digest
from pkbook.basics.parameters import Tree
from pkbook.basics.processes import Processes
from pkbook.basics.version import __version__
from pkbook.kernels.blocks import Span, Tile, cut, tiles
from pkbook.kernels.gram import gram

PACKET_BYTES = 2**26
"""Tiles travel in packets that are small against the matrix."""


class Shard(NamedTuple):
    """The rows of a kernel that one process keeps."""

    rows: Tensor
    """Their numbers in the whole kernel, int64 ``[r]``."""
    kernel: Tensor
    """The rows themselves, ``[r, n2]``, ``[r, n2, C]`` or ``[r, n2, C, C]``."""


class KernelOptions(TypedDict, total=False):
    """What :func:`distributed_kernel` takes beside its inputs and ``gather``."""

    reduce: str
    weight: Tree | None
    parameters1: Tree | None
    parameters2: Tree | None
    memory: int | None
    group: "dist.ProcessGroup | None"
    timeout: float | None


@overload
def distributed_kernel(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    gather: Literal[True] = True,
    **options: Unpack[KernelOptions],
) -> Tensor: ...


@overload
def distributed_kernel(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    gather: Literal["first"],
    **options: Unpack[KernelOptions],
) -> Tensor | None: ...


@overload
def distributed_kernel(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    gather: Literal[False],
    **options: Unpack[KernelOptions],
) -> Shard: ...


@overload
def distributed_kernel(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    gather: bool | str,
    **options: Unpack[KernelOptions],
) -> Tensor | Shard | None: ...


def distributed_kernel(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    reduce: str = "trace",
    weight: Tree | None = None,
    parameters1: Tree | None = None,
    parameters2: Tree | None = None,
    memory: int | None = None,
    group: "dist.ProcessGroup | None" = None,
    gather: bool | str = True,
    timeout: float | None = None,
) -> Tensor | Shard | None:
    r"""The kernel :math:`\nabla f(x,\theta)\,A\,\nabla f(x',\theta)^\top` on many processes.

    Called on every process of ``group`` with the same model, inputs and arguments; that they are
    the same is checked, by a hash, before anything is computed.  Without an initialised
    ``torch.distributed`` it is the computation in one process.  The communication is by gloo or
    NCCL, whichever the group has, and of tensors only.

    Parameters
    ----------
    model, x1, x2, reduce, weight, parameters1, parameters2 :
        as for :func:`pkbook.gradient_kernel`, :func:`pkbook.weighted_kernel` and
        :func:`pkbook.two_time_kernel`; the model and the inputs are on this process's device.
    memory
        bytes that *each* process may use, the result not counted; default a quarter of what
        is free, divided by the number of processes, and at most 1 GiB.
    group
        default the group of all processes.
    gather
        True, the whole kernel on every process; ``"first"``, on the group's rank 0 only;
        False, each process keeps about as many neighbouring rows.
    timeout
        seconds to wait for another process at any one moment; default the time-out of the
        group.  A process that is still held up in gloo ends only when the group's own time-out
        has passed too: give ``init_process_group`` the same value.

    Returns
    -------
    Tensor ``[n1, n2]`` (trace), ``[n1, n2, C]`` (diagonal) or ``[n1, n2, C, C]`` (full); with
    ``gather="first"`` None on the other processes; with ``gather=False`` a :class:`Shard`.

    Raises
    ------
    TypeError, ValueError
        as :func:`pkbook.gradient_kernel`; on all processes where they differ in the model, the
        inputs or an argument, named in the message.
    RankError
        where another process failed, ended or was not heard of in time.

    References
    ----------
    arXiv 2603.13872, Definition 2.1 and eqs. (9) and (10).

    Examples
    --------
    >>> line = torch.nn.Linear(2, 1)
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    >>> distributed_kernel(line, x)                      # in this one process
    tensor([[ 6.,  4.],
            [ 4., 10.]])
    >>> distributed_kernel(line, x, gather=False).rows
    tensor([0, 1])
    """
    if not (gather is True or gather is False or gather == "first"):
        raise ValueError(f"gather must be True, False or 'first', got {gather!r}")
    home = _device_of(model)
    processes = Processes(group, timeout, home)
    if memory is None:
        memory = min(free_memory(home) // (4 * processes.size), LARGEST_DEFAULT)
    options = {
        "reduce": reduce,
        "weight": weight,
        "parameters1": parameters1,
        "parameters2": parameters2,
        "memory": memory,
    }
    facts, like = processes.together(
        "checking its arguments", lambda: _checked(model, x1, x2, options, gather)
    )
    processes.agree(facts)
    if processes.size == 1:
        whole = gram(model, x1, x2, **options)
        return whole if gather else Shard(torch.arange(len(x1)), whole)
    symmetric = x2 is None and parameters2 is None
    other = x1 if x2 is None else x2
    owned = tiles(len(x1), len(other), processes.size, symmetric)
    work = _Work(processes, owned, (len(x1), len(other)), like, gather)
    whole, computed = processes.together(
        "computing its tiles",
        lambda: (work.room(), [_tile(model, x1, other, tile, options) for tile in work.mine]),
    )
    work.exchange(computed, whole)
    # A packet counts as sent before it has arrived: nobody leaves until everybody has it all.
    processes.together("finishing", lambda: None)
    if gather:
        return whole if gather is True or processes.index == 0 else None
    return Shard(torch.arange(*work.keeps[processes.index]), whole)


def _device_of(model: object) -> torch.device:
    """Where the model is; wrong models are refused later, by all processes at the same time."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((p.device for p in parameters), torch.device("cpu"))


def _checked(model, x1, x2, options: dict, gather: bool | str) -> tuple[dict[str, str], Tensor]:
    """What all processes must have in common, and the kernel of the first inputs as a sample."""
    require_inputs(require_module(model), x1, "x1")
    if x2 is not None:
        require_inputs(model, x2, "x2")
    first = gram(model, x1[:1], None if x2 is None else x2[:1], **options)
    facts = {
        "the version of pkbook and torch": f"{__version__}, {torch.__version__}",
        "reduce": options["reduce"],
        "gather": str(gather),
        "the list of the model's modules": _hash(
            "\n".join(f"{name} {type(m).__qualname__}" for name, m in model.named_modules())
        ),
    }
    for name, p in model.named_parameters():
        frozen = "" if p.requires_grad else " frozen"
        facts[f"parameter {name!r} of the model"] = digest(p) + frozen
    facts |= {f"buffer {name!r} of the model": digest(b) for name, b in model.named_buffers()}
    for argument in ("weight", "parameters1", "parameters2"):
        for name, value in (options[argument] or {}).items():
            facts[f"{argument}[{name!r}]"] = digest(torch.as_tensor(value))
    facts |= {name: digest(x) for name, x in (("x1", x1), ("x2", x2)) if x is not None}
    return facts, first


def _hash(text: str) -> str:
    return digest(torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8))


def _tile(model: nn.Module, x1: Tensor, x2: Tensor, tile: Tile, options: dict) -> Tensor:
    rows, columns = (x[start:stop] for x, (start, stop) in ((x1, tile.rows), (x2, tile.columns)))
    return gram(model, rows, None if tile.diagonal else columns, **options)


class _Packet(NamedTuple):
    """A part of a tile on its way; None as ``to`` means everybody."""

    owner: int
    to: int | None
    number: int
    """Which of its owner's tiles."""
    tile: Tile
    rows: Span
    columns: Span


class _Work:
    """One kernel that is computed by several processes."""

    def __init__(
        self, processes: Processes, owned: list[list[Tile]], shape: Span, like: Tensor, gather
    ):
        self.processes, self.owned, self.shape = processes, owned, shape
        self.mine = owned[processes.index]
        self.like = like  # the kernel of one pair: type, device and last dimensions
        self.gather = gather
        self.keeps = self._keeps()

    def _keeps(self) -> list[Span]:
        """The rows that each rank has in the end."""
        n, size = self.shape[0], self.processes.size
        if self.gather is False:
            return [(r * n // size, (r + 1) * n // size) for r in range(size)]
        return [(0, n if self.gather is True or r == 0 else 0) for r in range(size)]

    def _new(self, rows: Span, columns: Span) -> Tensor:
        height, width = (stop - start for start, stop in (rows, columns))
        return self.like.new_empty(height, width, *self.like.shape[2:])

    def room(self) -> Tensor:
        """Memory for the rows to be kept: asked for before the work is done."""
        return self._new(self.keeps[self.processes.index], (0, self.shape[1]))

    def exchange(self, computed: list[Tensor], out: Tensor) -> None:
        """Bring every tile, and what it mirrors, to where it is wanted."""
        here = self.processes.index
        for packet in self._packets():
            if packet.to is not None and here not in (packet.owner, packet.to):
                continue
            own = None
            if packet.owner == here:
                (top, _), (left, _) = packet.tile.rows, packet.tile.columns
                (a, b), (c, d) = packet.rows, packet.columns
                own = computed[packet.number][a - top : b - top, c - left : d - left]
            like = self._new(packet.rows, packet.columns) if own is None else own
            part = self.processes.pass_on(own, like, packet.owner, packet.to)
            if packet.to in (None, here):
                self._put(packet, part.to(out.device), out)

    def _packets(self) -> Iterator[_Packet]:
        """All packets, in one order on all processes: a sender always meets its receiver."""
        for owner, own in enumerate(self.owned):
            for number, tile in enumerate(own):
                for to, rows, columns in self._wanted(tile):
                    for part in self._split(rows, columns):
                        yield _Packet(owner, to, number, tile, part, columns)

    def _wanted(self, tile: Tile) -> Iterator[tuple[int | None, Span, Span]]:
        """Who needs which part of a tile."""
        if self.gather:
            yield (None if self.gather is True else 0), tile.rows, tile.columns
            return
        for rank, kept in enumerate(self.keeps):
            if rows := _common(tile.rows, kept):
                yield rank, rows, tile.columns
            if tile.symmetric and not tile.diagonal and (columns := _common(tile.columns, kept)):
                yield rank, tile.rows, columns

    def _split(self, rows: Span, columns: Span) -> list[Span]:
        per_row = (columns[1] - columns[0]) * self.like.numel() * self.like.element_size()
        height = rows[1] - rows[0]
        spans = cut(height, -(-height // max(1, PACKET_BYTES // per_row)))
        return [(rows[0] + a, rows[0] + b) for a, b in spans]

    def _put(self, packet: _Packet, part: Tensor, out: Tensor) -> None:
        """Write the rows that are kept here, and those that the packet mirrors."""
        kept = self.keeps[self.processes.index]
        (top, _), (left, _) = packet.rows, packet.columns
        if found := _common(packet.rows, kept):
            (a, b), at = found, slice(*packet.columns)
            out[a - kept[0] : b - kept[0], at] = part[a - top : b - top]
        mirrors = packet.tile.symmetric and not packet.tile.diagonal
        if mirrors and (found := _common(packet.columns, kept)):
            (a, b), at = found, slice(*packet.rows)
            turned = part[:, a - left : b - left].transpose(0, 1)
            if turned.ndim == 4:  # the two outputs change places as well
                turned = turned.transpose(2, 3)
            out[a - kept[0] : b - kept[0], at] = turned


def _common(one: Span, two: Span) -> Span | None:
    """What two spans have in common, None if nothing."""
    start, stop = max(one[0], two[0]), min(one[1], two[1])
    return (start, stop) if start < stop else None
