"""An ``Interpolation`` as tensors, and as one file that is written whole and checked.

Nothing is ever pickled.  A file holds the tensors in safetensors; its metadata say what it is, the
version of the format, and a checksum over names, types, shapes and bytes of everything in it.
"""

import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pkbook.basics.files import StorageError, write_whole
from pkbook.basics.fingerprints import fingerprint
from pkbook.basics.version import __version__

if TYPE_CHECKING:
    from pkbook.interpolation.effect import Influence
    from pkbook.interpolation.result import Interpolation

DOUBTS = ("rounding", "scales", "precision")
DICTS = ("other", "by_parameter", "entries", "by_part")
KIND = "interpolation"
FORMAT = "1"


def as_tensors(told: "Interpolation") -> dict[str, Tensor]:
    """Everything in an ``Interpolation`` as tensors; the order of its dicts is in the names."""
    found = {
        "initial": told.initial,
        "final": told.final,
        "contributions": told.contributions,
        "remainder": told.remainder,
        "pieces": told.pieces,
        **_of_steps(told.by_step, told.contributions),
        "doubt": torch.tensor(DOUBTS.index(told.doubt)),
    }
    if told.kept is not None:  # few of many: which, and how much
        order = told.contributions.abs().argsort(dim=0, descending=True, stable=True)[: told.kept]
        found["kept/samples"], found["kept/values"] = order, told.contributions.gather(0, order)
        found["kept/of"] = torch.tensor(len(told.contributions))
        del found["contributions"]
    if told.by_token is not None:
        found["by_token"] = told.by_token
    if told.tolerance is not None:
        found["tolerance"] = torch.tensor(told.tolerance, dtype=torch.float64)
    for kind in DICTS:
        found |= _of_dict(kind, getattr(told, kind))
    return _apart({name: t.detach().cpu().contiguous() for name, t in found.items()})


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each in memory of its own, which safetensors asks for: one tensor may stand in two places."""
    seen: set[int] = set()
    for name, t in tensors.items():
        if t.numel() and t.data_ptr() in seen:
            tensors[name] = t.clone()
        seen.add(t.data_ptr())
    return tensors


def as_fields(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What :func:`as_tensors` put away, by the names of the fields."""
    plain = ("initial", "final", "remainder", "pieces")
    contributions, kept = tensors.get("contributions"), None
    if contributions is None:
        order, values = tensors["kept/samples"], tensors["kept/values"]
        kept = len(order)
        contributions = values.new_zeros(int(tensors["kept/of"]), *values.shape[1:])
        contributions.scatter_(0, order, values)
    return {
        **{name: tensors[name] for name in plain},
        "contributions": contributions,
        "kept": kept,
        "by_step": _steps_of(tensors),
        **_dicts_of(tensors, DICTS),
        "by_token": tensors.get("by_token"),
        "tolerance": tensors["tolerance"].item() if "tolerance" in tensors else None,
        "doubt": DOUBTS[int(tensors["doubt"])] if "doubt" in tensors else DOUBTS[0],
    }


def influence_tensors(told: "Influence") -> dict[str, Tensor]:
    """Everything in an ``Influence`` as tensors."""
    found = {
        "final": told.final,
        "effects": told.effects,
        **_of_steps(told.by_step, told.effects),
        **_of_dict("by_parameter", told.by_parameter),
    }
    return _apart({name: t.detach().cpu().contiguous() for name, t in found.items()})


def influence_fields(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What :func:`influence_tensors` put away, by the names of the fields."""
    return {
        "final": tensors["final"],
        "effects": tensors["effects"],
        "by_step": _steps_of(tensors),
        "by_parameter": _dicts_of(tensors, ("by_parameter",))["by_parameter"],
    }


def _of_steps(by_step: list[tuple[Tensor, Tensor]], like: Tensor) -> dict[str, Tensor]:
    numbers, values = [n for n, _ in by_step], [v for _, v in by_step]
    return {
        "step/samples": torch.cat(numbers) if numbers else torch.zeros(0, dtype=torch.int64),
        "step/values": torch.cat(values) if values else like[:0],
        "step/sizes": torch.tensor([len(n) for n in numbers], dtype=torch.int64),
    }


def _steps_of(tensors: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    sizes = tensors["step/sizes"].tolist()
    return list(
        zip(*(tensors[f"step/{n}"].split(sizes) for n in ("samples", "values")), strict=True)
    )


def _of_dict(kind: str, found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{kind}/{j}/{name}": value for j, (name, value) in enumerate(found.items())}


def _dicts_of(tensors: dict[str, Tensor], kinds: tuple[str, ...]) -> dict[str, dict]:
    dicts: dict[str, dict] = {kind: {} for kind in kinds}
    numbered = [(*key.split("/", 2), t) for key, t in tensors.items() if key.count("/") > 1]
    for kind, _, name, t in sorted(numbered, key=lambda entry: int(entry[1])):
        dicts[kind][name] = t
    return dicts


def write_file(path: str | Path, tensors: dict[str, Tensor], kind: str = KIND) -> None:
    """Write a result's tensors whole; see :meth:`Interpolation.save`."""
    path = _as_path(path)
    facts = {"kind": kind, "format": FORMAT, "pkbook": __version__}
    content = save(tensors, facts | {"checksum": _checksum(facts, tensors)})
    try:
        write_whole(path, content)
    except OSError as error:
        raise StorageError(
            f"the {kind} could not be written to {str(path)!r} ({error}); a file that was "
            "there is intact: give a file in a folder that exists and where you may write"
        ) from error


def read_file(path: str | Path, kind: str = KIND) -> dict[str, Tensor]:
    """The tensors that a file of :func:`write_file` holds; see :meth:`Interpolation.load`."""
    path = _as_path(path)
    if path.is_dir():
        raise ValueError(
            f"path must be a file of {kind.capitalize()}.save, got the folder {str(path)!r}; for "
            "what explain wrote to a folder write Explanation.open(folder)"
        )
    content = path.read_bytes()
    try:
        tensors, facts = load(content), _metadata(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged or no file of {kind.capitalize()}.save: it cannot be read ({error})"
        ) from error
    if facts.get("kind") != kind:
        raise ValueError(
            f"{path} holds no {kind}; give a file that {kind.capitalize()}.save has written"
        )
    if facts.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {facts.get('format')!r} (written by pkbook "
            f"{facts.get('pkbook')!r}), this pkbook reads {FORMAT!r}; use that version"
        )
    if facts.pop("checksum", None) != _checksum(facts, tensors):
        raise ValueError(f"{path} is damaged (checksum differs); it is not used")
    return tensors


def _as_path(path: object) -> Path:
    if not isinstance(path, str | Path):
        raise TypeError(f"path must be a str or a Path, got {type(path).__name__} {path!r}")
    return Path(path)


def _metadata(content: bytes) -> dict[str, str]:
    """The texts in the header of a safetensors file: its length in 8 bytes, then JSON."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__") or {}


def _checksum(facts: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """Over the texts, and over each tensor's name, type, shape and bytes, in the names' order."""
    names = sorted(tensors)
    texts = zlib.crc32(json.dumps([sorted(facts.items()), names]).encode())
    return f"{texts:08x}{fingerprint(*(tensors[name] for name in names))}"
