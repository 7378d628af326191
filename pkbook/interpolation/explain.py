r"""Many predictions taken apart: chunk by chunk, on disk as soon as known, by one process or more.

:func:`pkbook.interpolate` holds what it finds, :math:`N` samples by :math:`m` queries by :math:`C`
outputs, and the averaged gradients of all its queries.  :func:`explain` calls it for a few queries
at a time, so that only these must fit in memory, and keeps each chunk before it begins the next.

A folder holds ``manifest.json``, which says what was asked, and
``chunks/NUMBER-CHECKSUM.safetensors``, each written whole or not at all.
"""

import inspect
import json
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
import torch.distributed as dist
from filelock import FileLock
from torch import Tensor
from tqdm.auto import tqdm

from pkbook.basics.budget import LARGEST_DEFAULT, free_memory
from pkbook.basics.checks import (
    evaluating,
    require_finite,
    require_tensor,
    require_whole,
)
from pkbook.basics.files import (
    StorageError,
    not_writable,
    read_checked,
    sole_writer,
    sweep,
    write_checked,
    write_whole,
)
from pkbook.basics.fingerprints import digest, fingerprint
from pkbook.basics.parameters import trainable
from pkbook.basics.processes import Processes
from pkbook.basics.version import __version__
from pkbook.interpolation.interpolate import interpolate
from pkbook.interpolation.result import Interpolation
from pkbook.interpolation.walk import require_walk
from pkbook.kernels.inputs import evaluate, selection
from pkbook.runs.recording import Recording
from pkbook.runs.storage import dump_manifest, load_manifest

KIND = "explanation"
GRADIENTS = 4
"""Averaged gradients that one query and output hold at a time, about."""
COPIES = 5
"""Times that a chunk's result is there while it is written, as measured."""


def explain(
    run: Recording,
    x: Tensor,
    *,
    folder: str | Path | None = None,
    outputs: int | Tensor | None = None,
    chunk: int | None = None,
    memory: int | None = None,
    group: "dist.ProcessGroup | None" = None,
    timeout: float | None = None,
    progress: bool = False,
    **options,
) -> "Explanation":
    r"""Take the predictions at many queries apart into the training samples of a recorded run.

    Each chunk of queries is one call of :func:`pkbook.interpolate`.  With ``folder`` a chunk is
    written as soon as it is known and not held any longer; called again with the same run,
    queries and options, ``explain`` goes on with the chunks that are missing.  Under
    ``torch.distributed`` it is called on every process of ``group`` with the same arguments, and
    the processes share the chunks.

    Parameters
    ----------
    run
        the recorded training.
    x
        queries ``[m, ...]``, on any device: each chunk is moved to the model's.
    folder
        where to write the result; on several processes one that all of them see.  Default in
        memory, which needs a single process.
    outputs
        None for all :math:`C` outputs, one index, or one index per query ``[m]``.
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
    **options
        ``rule``, ``nodes``, ``tolerance``, ``most_pieces``, ``layers`` and ``entries`` of
        :func:`pkbook.interpolate`.

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
    home = run.x.device if isinstance(run, Recording) else torch.device("cpu")
    processes = Processes(group, timeout, home)

    def check() -> tuple[_Question, int]:
        if processes.size > 1 and folder is None:
            raise ValueError("folder must be given where several processes explain together")
        question = _asked(run, x, outputs, options)
        return question, _fitting(question, chunk, memory, processes.size)

    question, fits = processes.together("checking its arguments", check)
    facts = {**question.facts, "chunk": chunk, "memory": memory, "folder": str(folder)}
    processes.agree({name: json.dumps(value) for name, value in facts.items()})
    fits = min(int(n) for n in processes.share(str(fits), "choosing the chunks"))
    shelf = _Memory() if folder is None else _Folder(Path(folder))
    try:
        size = processes.together(
            "opening the folder",
            lambda: shelf.begin(question.facts, fits, chunk) if processes.index == 0 else 0,
        )
        size = int(processes.share(str(size), "opening the folder")[0])
        manifest = _manifest(question.facts, size)
        _work(processes, question, shelf, manifest, progress)
    finally:
        shelf.end()
    return Explanation(manifest, shelf)


def _work(
    processes: Processes, question: "_Question", shelf, manifest: dict, progress: bool
) -> None:
    """Compute what is not there yet: in rounds, each rank one chunk."""
    chunks = _chunks_of(manifest)

    def look() -> None:  # each rank reads its share of what is there
        for number in sorted(shelf.there())[processes.index :: processes.size]:
            _read(shelf, manifest, number)

    processes.together("reading the chunks that are there", look)
    there = set(
        json.loads(processes.share(json.dumps(sorted(shelf.there())), "listing the chunks")[0])
    )
    missing = [number for number in chunks if number not in there]
    show = progress and processes.index == 0
    unreached: list[tuple[int, float]] = []
    with tqdm(total=len(missing), disable=not show or len(chunks) == 1, desc="chunks") as bar:
        for start in range(0, len(missing), processes.size):
            mine = missing[start : start + processes.size][processes.index : processes.index + 1]

            def one(mine: list[int] = mine) -> None:
                for number in mine:
                    rows = _rows(manifest, number)
                    told = question.answer(rows, show and len(chunks) == 1)
                    unreached.extend(_unreached(told, rows.start))
                    tensors = _packed(told, _place(manifest, number))
                    del told  # not held as well while the chunk is written
                    shelf.keep(number, tensors)

            processes.together("taking its queries apart", one)
            bar.update(min(processes.size, len(missing) - start))
    if unreached:
        warnings.warn(
            f"the tolerance {question.options['tolerance']:g} was not reached for queries "
            f"{[i for i, _ in unreached[:8]]} ({len(unreached)} in all): up to "
            f"{max(gap for _, gap in unreached):.2g} of the change remains (see remainder); allow "
            "more pieces or nodes",
            stacklevel=3,
        )


@dataclass(frozen=True)
class _Question:
    """What is asked, and how it is told apart from other questions."""

    run: Recording
    x: Tensor
    chosen: Tensor | None
    options: dict
    width: int
    """Outputs told of each query."""
    facts: dict

    def answer(self, rows: slice, progress: bool) -> Interpolation:
        home = self.run.x.device
        chosen = None if self.chosen is None else self.chosen[rows].to(home)
        with warnings.catch_warnings():  # it would number the queries within the chunk
            warnings.filterwarnings("ignore", "the tolerance .* was not reached", UserWarning)
            return interpolate(
                self.run,
                self.x[rows].to(home),
                outputs=chosen,
                progress=progress,
                **self.options,
            )


def _asked(run: object, x: object, outputs: object, options: dict) -> _Question:
    """Check what can be checked before the work, and describe it for the manifest."""
    if not isinstance(run, Recording):
        raise TypeError(f"run must be a pkbook.Trajectory, got {type(run).__name__}")
    options = _with_defaults(options)
    x = require_tensor(x, "x")
    first = (x[:1] if x.ndim else x).to(run.x.device)
    require_walk(run, first)
    x = require_finite(x.detach(), "x")
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
        "queries": {"number": len(x), "content": digest(x)},
        "outputs": _described(chosen),
        "width": width,
        "options": {name: _plain(value) for name, value in options.items()},
    }
    return _Question(run, x, chosen, options, width, facts)


def _with_defaults(options: dict) -> dict:
    """The options of ``interpolate``, so that one left out equals its default."""
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(interpolate).parameters.items()
        if name not in ("run", "x", "outputs", "progress")
    }
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise TypeError(f"explain has no option {unknown[0]!r}; it has {', '.join(known)}")
    found = known | options
    if isinstance(found["entries"], tuple):
        found["entries"] = list(found["entries"])
    return found


def _plain(value: object) -> object:
    """As it stands in the manifest; what JSON cannot hold is refused by ``interpolate`` later."""
    return value if isinstance(value, str | int | float | list | None) else repr(value)


def _described(chosen: Tensor | None) -> str | int:
    if chosen is None:
        return "all"
    return int(chosen[0]) if bool((chosen == chosen[0]).all()) else f"by query, {digest(chosen)}"


def _run_facts(run: Recording) -> dict:
    """The run's own manifest, where it ended, and nothing of where it was recorded."""
    own = {k: v for k, v in run._manifest().items() if k not in ("pkbook", "environment")}
    parameters = dict(run.model.named_parameters())
    last = fingerprint(*(parameters[name] for name in run.names), *run.model.buffers())
    return own | {"steps": len(run), "last": last}


def _fitting(question: _Question, chunk: int | None, memory: int | None, processes: int) -> int:
    """The number of queries in a chunk."""
    if memory is not None:
        require_whole(memory, "memory")
    if chunk is not None:
        return require_whole(chunk, "chunk")
    need = _bytes_of_a_query(question)
    if memory is None:
        memory = min(free_memory(question.run.x.device) // (4 * processes), LARGEST_DEFAULT)
    elif memory < need:
        raise ValueError(
            f"memory must hold one query, about {need} bytes for this run, got {memory}"
        )
    return max(1, min(memory // need, -(-len(question.x) // processes)))


def _bytes_of_a_query(question: _Question) -> int:
    run = question.run
    own = {name: p for name, p in run.model.named_parameters() if name in run.names}
    gradients = sum(p.numel() * p.element_size() for p in own.values())
    samples = len(run.x) * (1 + len(own) * bool(question.options["layers"]))
    steps = sum(len(record.batch) for record in run.store.steps)
    return question.width * (GRADIENTS * gradients + COPIES * 8 * (samples + steps))


def _manifest(facts: dict, chunk: int) -> dict:
    return json.loads(json.dumps(facts | {"chunk": chunk}))


def _chunks_of(manifest: dict) -> range:
    """The numbers of all chunks."""
    return range(-(-manifest["queries"]["number"] // manifest["chunk"]))


def _rows(manifest: dict, number: int) -> slice:
    """The queries of a chunk."""
    start = number * manifest["chunk"]
    return slice(start, min(start + manifest["chunk"], manifest["queries"]["number"]))


def _place(manifest: dict, number: int) -> Tensor:
    """Which queries of which explanation a chunk tells of, int64 ``[3]``."""
    rows = _rows(manifest, number)
    identity = zlib.crc32(json.dumps(manifest, sort_keys=True).encode())
    return torch.tensor([rows.start, rows.stop, identity])


def _unreached(told: Interpolation, start: int) -> list[tuple[int, float]]:
    if told.tolerance is None:
        return []
    gaps = told.completeness
    return [(start + int(i), float(gaps[i])) for i in (~told.reached).nonzero().flatten()]


def _packed(told: Interpolation, place: Tensor) -> dict[str, Tensor]:
    """Everything in an ``Interpolation`` as tensors; the order of its dicts is in the names."""
    numbers, values = zip(*told.by_step, strict=True)
    found = {
        "place": place,
        "initial": told.initial,
        "final": told.final,
        "contributions": told.contributions,
        "remainder": told.remainder,
        "pieces": told.pieces,
        "step/samples": torch.cat(numbers),
        "step/values": torch.cat(values),
        "step/sizes": torch.tensor([len(n) for n in numbers]),
    }
    if told.tolerance is not None:
        found["tolerance"] = torch.tensor(told.tolerance, dtype=torch.float64)
    for kind in ("other", "by_parameter", "entries"):
        for j, (name, value) in enumerate(getattr(told, kind).items()):
            found[f"{kind}/{j}/{name}"] = value
    return {name: t.detach().cpu().contiguous() for name, t in found.items()}


def _unpacked(tensors: dict[str, Tensor]) -> Interpolation:
    """What :func:`_packed` put away."""
    dicts: dict[str, dict] = {"other": {}, "by_parameter": {}, "entries": {}}
    numbered = [(*key.split("/", 2), t) for key, t in tensors.items() if key.count("/") > 1]
    for kind, _, name, t in sorted(numbered, key=lambda entry: int(entry[1])):
        dicts[kind][name] = t
    sizes = tensors["step/sizes"].tolist()
    steps = (tensors[f"step/{name}"].split(sizes) for name in ("samples", "values"))
    return Interpolation(
        tensors["initial"],
        tensors["final"],
        tensors["contributions"],
        list(zip(*steps, strict=True)),
        dicts["other"],
        tensors["remainder"],
        tensors["pieces"],
        dicts["by_parameter"],
        dicts["entries"],
        tensors["tolerance"].item() if "tolerance" in tensors else None,
    )


def _one(told: Interpolation, i: int) -> Interpolation:
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
    )


class _Memory:
    """Chunks in memory."""

    folder = None

    def __init__(self) -> None:
        self.kept: dict[int, dict[str, Tensor]] = {}

    def begin(self, facts: dict, fits: int, asked: int | None) -> int:
        return fits

    def end(self) -> None:
        """Nothing to release."""

    def there(self) -> set[int]:
        return set(self.kept)

    def has(self, number: int) -> bool:
        return number in self.kept

    def keep(self, number: int, tensors: dict[str, Tensor]) -> None:
        self.kept[number] = tensors

    def load(self, number: int) -> dict[str, Tensor]:
        return self.kept[number]

    def name(self, number: int) -> str:
        return f"chunk {number}"


class _Folder:
    """Chunks in a folder; one ``explain`` writes there at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: FileLock | None = None
        self._known: dict[int, Path] = {}

    @property
    def _path(self) -> Path:
        return self.folder / "manifest.json"

    def begin(self, facts: dict, fits: int, asked: int | None) -> int:
        """Take the folder for writing; the size of its chunks.

        A folder without any finished chunk is begun anew.
        """
        strange = self._strange()
        if strange is not None:
            raise ValueError(
                f"folder {str(self.folder)!r} holds {strange} and is no explanation; give an "
                "empty or a new folder"
            )
        try:
            (self.folder / "chunks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_writable(self.folder, error) from error
        self._acquire()
        try:
            self._write("nothing yet", lambda: sweep(self.folder))
            if self.there():
                return self._compare(facts, asked)
            content = dump_manifest(_manifest(facts, fits))
            self._write("the manifest", lambda: write_whole(self._path, content))
        except BaseException:
            self.end()
            raise
        return fits

    def _strange(self) -> str | None:
        """Something that is not of an explanation."""
        if not self.folder.exists():
            return None
        if not self.folder.is_dir():
            return "no files: it is a file itself"
        found = {path.name for path in self.folder.iterdir() if path.suffix != ".partial"}
        others = sorted(found - {"manifest.json", "chunks", "writer.lock"})
        if others:
            return repr(others[0])
        if "manifest.json" in found:
            read_manifest(self.folder)
        return None

    def _acquire(self) -> None:
        advice = "explain; wait for its end, or give another folder"
        self._lock = sole_writer(self.folder, advice)

    def _compare(self, facts: dict, asked: int | None) -> int:
        there = read_manifest(self.folder)
        here = _manifest(facts, there.get("chunk") if asked is None else asked)
        for name in here | there:
            difference = _first_difference(name, there.get(name), here.get(name))
            if difference is not None:
                what, old, new = difference
                raise ValueError(
                    f"folder {str(self.folder)!r} holds an explanation with another {what}: "
                    f"{old!r} there, {new!r} here; give the same run, queries and options, or "
                    "another folder"
                )
        return there["chunk"]

    def end(self) -> None:
        """Let others write."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def there(self) -> set[int]:
        """The numbers of the chunks, read from the folder anew."""
        found: dict[int, Path] = {}
        for path in sorted((self.folder / "chunks").glob("*.safetensors")):
            number = path.stem.partition("-")[0]
            if not number.isdecimal() or int(number) in found:
                raise ValueError(
                    f"{path} is damaged: its name must begin with the number of a chunk that no "
                    "other file has; remove it"
                )
            found[int(number)] = path
        self._known = found
        return set(found)

    def has(self, number: int) -> bool:
        return number in self._known or number in self.there()

    def keep(self, number: int, tensors: dict[str, Tensor]) -> None:
        write = write_checked
        self._write(
            f"chunk {number}", lambda: write(self.folder / "chunks", f"{number:09d}", tensors)
        )

    def _write(self, what: str, write) -> None:
        try:
            write()
        except OSError as error:
            raise StorageError(
                f"{what} could not be written to {str(self.folder)!r} ({error}); the chunks that "
                "are there are intact: make room and call explain again to go on"
            ) from error

    def load(self, number: int) -> dict[str, Tensor]:
        try:
            return read_checked(self._known[number])
        except ValueError as error:
            raise ValueError(
                f"{error}; remove it, and explain will compute it again from the same run"
            ) from error

    def name(self, number: int) -> str:
        return str(self._known[number])


def _first_difference(name: str, there: object, here: object) -> tuple | None:
    """Where two manifests differ first: its name, what it is there and here."""
    if there == here:
        return None
    if isinstance(there, dict) and isinstance(here, dict):
        for key in here | there:
            found = _first_difference(f"{name}.{key}", there.get(key), here.get(key))
            if found is not None:
                return found
    return name, there, here


def read_manifest(folder: Path) -> dict:
    """What an explanation says of itself; ``ValueError`` where it is damaged or something else."""
    if not (folder / "manifest.json").is_file():
        raise ValueError(f"folder {str(folder)!r} holds no explanation (no manifest.json)")
    manifest = load_manifest(folder / "manifest.json")
    if manifest.get("kind") != KIND:
        raise ValueError(
            f"folder {str(folder)!r} holds a recorded run and no explanation; open it with "
            "Trajectory.open(folder, model, loss, optimizer, data)"
        )
    return manifest


def _read(shelf, manifest: dict, number: int) -> dict[str, Tensor]:
    """The tensors of a chunk, if they are those of this explanation."""
    tensors = shelf.load(number)
    wanted = _place(manifest, number)
    if number not in _chunks_of(manifest) or not torch.equal(tensors.get("place", -wanted), wanted):
        raise ValueError(
            f"{shelf.name(number)} is damaged: it is not chunk {number} of this explanation; "
            "remove it"
        )
    return tensors


def complaints(read: Callable, things: Iterable) -> list[str]:
    """What ``read`` says of each thing that is damaged."""
    found = []
    for thing in things:
        try:
            read(thing)
        except ValueError as error:
            found.append(str(error))
    return found


def refuse(damaged: list[str]) -> None:
    """``ValueError`` naming all that is damaged, if anything is."""
    if damaged:
        raise ValueError("\n  ".join([f"{len(damaged)} damaged or missing:", *damaged]))


class Explanation:
    """Many predictions taken apart: what :func:`pkbook.explain` found, read chunk by chunk.

    ``len(told)`` is the number of queries, ``told[i]`` the :class:`Interpolation` of query ``i``
    alone (:math:`m=1`), and iteration goes over all of them.  What is read from a folder is
    checked and lies on the CPU; one chunk at a time is held.
    """

    def __init__(self, manifest: dict, shelf) -> None:
        self.manifest = manifest
        """What was asked: the run, the queries and the options."""
        self._shelf = shelf
        self._last: tuple[int, Interpolation] | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """The explanation kept in a folder, finished or not.

        Raises
        ------
        ValueError
            for a folder that holds no explanation, or whose manifest is damaged.  A damaged chunk
            is named where it is read.
        """
        return cls(read_manifest(Path(folder)), _Folder(Path(folder)))

    def __len__(self) -> int:
        """Number of queries."""
        return self.manifest["queries"]["number"]

    def __getitem__(self, query: int) -> Interpolation:
        """The :class:`Interpolation` of one query."""
        if isinstance(query, bool) or not isinstance(query, int):
            raise TypeError(f"query must be an int, got {type(query).__name__} {query!r}")
        if not -len(self) <= query < len(self):
            raise IndexError(f"query must lie in 0..{len(self) - 1}, got {query}")
        number, place = divmod(query % len(self), self.manifest["chunk"])
        return _one(self._chunk(number), place)

    def __iter__(self) -> Iterator[Interpolation]:
        return (self[i] for i in range(len(self)))

    def _chunk(self, number: int) -> Interpolation:
        if self._last is None or self._last[0] != number:
            if not self._shelf.has(number):
                rows = _rows(self.manifest, number)
                raise ValueError(
                    f"queries {rows.start} to {rows.stop - 1} are not there (chunk {number}): "
                    "call explain again with the same arguments to finish"
                )
            self._last = number, _unpacked(_read(self._shelf, self.manifest, number))
        return self._last[1]

    def chunks(self) -> Iterator[tuple[slice, Interpolation]]:
        """The chunks in order: which queries, and their :class:`Interpolation`."""
        for number in _chunks_of(self.manifest):
            yield _rows(self.manifest, number), self._chunk(number)

    @property
    def missing(self) -> list[int]:
        """The numbers of the chunks that are not there, empty for a finished explanation."""
        return sorted(set(_chunks_of(self.manifest)) - self._shelf.there())

    def verify(self) -> float:
        """Read every chunk against its checksum; the largest ``completeness``.

        ``ValueError`` naming every chunk that is damaged or not there.
        """
        gaps = [0.0]

        def read(number: int) -> None:
            gaps.append(self._chunk(number).completeness.max().item())

        self._last = None
        there = self._shelf.there()
        refuse(
            [f"chunk {number} is not there (not finished, or lost)" for number in self.missing]
            + complaints(read, sorted(there))
        )
        return max(gaps)

    def contributions(self, query: int) -> Tensor:
        """Every sample's contribution to the outputs of one query, ``[N, C]``."""
        return self[query].contributions[:, 0]

    def top(self, k: int, query: int = 0, output: int = 0) -> tuple[Tensor, Tensor]:
        """The ``k`` samples that moved an output of a query most: :meth:`Interpolation.top`."""
        return self[query].top(k, 0, output)

    @cached_property
    def _told(self) -> dict[str, Tensor]:
        """What is small enough to be held for all queries, from one reading of all chunks."""
        names = ("initial", "final", "change", "remainder", "completeness", "reached")
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        for _, told in self.chunks():
            for name, parts in found.items():
                parts.append(getattr(told, name))
        return {name: torch.cat(parts) for name, parts in found.items()}

    @property
    def initial(self) -> Tensor:
        r""":math:`f(x,\theta_0)`, ``[m, C]``."""
        return self._told["initial"]

    @property
    def final(self) -> Tensor:
        r""":math:`f(x,\theta_K)`, ``[m, C]``."""
        return self._told["final"]

    @property
    def change(self) -> Tensor:
        r""":math:`f(x,\theta_K)-f(x,\theta_0)`, ``[m, C]``."""
        return self._told["change"]

    @property
    def remainder(self) -> Tensor:
        """What the quadrature rule left out, ``[m, C]``."""
        return self._told["remainder"]

    @property
    def completeness(self) -> Tensor:
        """The relative gap of each query's sum, ``[m]``: :attr:`Interpolation.completeness`."""
        return self._told["completeness"]

    @property
    def reached(self) -> Tensor:
        """Whether each query's sum closes to the tolerance asked for, bool ``[m]``."""
        return self._told["reached"]
