"""What an ``Interpolation`` and an ``Explanation`` say of themselves in a few lines."""

from typing import TYPE_CHECKING

from pkbook.basics.words import counted

if TYPE_CHECKING:
    from pkbook.interpolation.explanation import Explanation
    from pkbook.interpolation.result import Interpolation


def _head(kind: str, queries: int, outputs: int, samples: int, steps: int) -> str:
    each = "" if queries == 1 else " each"
    return (
        f"{kind} of {counted(queries, 'query', 'queries')}, {counted(outputs, 'output')}{each}, "
        f"over {counted(samples, 'sample')} and {counted(steps, 'step')}"
    )


def of_interpolation(told: "Interpolation") -> str:
    """Its sizes, the first query's change, how well the sum closes, and what else is in it."""
    n, m, c = told.contributions.shape
    lines = [_head("Interpolation", m, c, n, len(told.by_step))]
    if m and c:
        before, after = told.initial[0, 0].item(), told.final[0, 0].item()
        what = "query 0" if c == 1 else "query 0, output 0"
        lines.append(f"{what}: {before:.4g} -> {after:.4g} (change {after - before:+.4g})")
        lines.append(_completeness(told))
    sizes = {name: value.abs().max().item() for name, value in told.other.items() if m and c}
    named = [f"{name} (at most {size:.3g})" for name, size in sizes.items()]
    lines.append(f"other: {', '.join(named) or 'none'}")
    lines.append(_pieces(told))
    split = [
        f"{kind}: {counted(len(parts), 'tensor')}"
        for kind, parts in (("by_parameter", told.by_parameter), ("entries", told.entries))
        if parts
    ]
    return "\n  ".join([*lines, "; ".join(split)] if split else lines)


def _completeness(told: "Interpolation") -> str:
    largest = f"completeness: {told.completeness.max().item():.1e} at most"
    if told.tolerance is None:
        return f"{largest} (no tolerance asked for)"
    missed = int((~told.reached).sum())
    kept = "reached" if not missed else f"missed by {counted(missed, 'query', 'queries')}"
    return f"{largest} (tolerance {told.tolerance:g} {kept})"


def _pieces(told: "Interpolation") -> str:
    if not len(told.pieces):
        return "pieces: none"
    most = int(told.pieces.max())
    cut = int((told.pieces > 1).sum())
    return "pieces: one a step" if most == 1 else (
        f"pieces: up to {most} a step, more than one in {counted(cut, 'step')}"
    )  # fmt: skip


def of_explanation(told: "Explanation", where: str, there: int | None) -> str:
    """What was asked and how much of it is there; no chunk is read for this."""
    manifest = told.manifest
    run, options = manifest["run"], manifest["options"]
    head = _head("Explanation", len(told), manifest["width"], run["samples"], run["steps"])
    total = -(-len(told) // manifest["chunk"])
    state = "finished" if there == total else f"{total - (there or 0):,} missing"
    if there is None:
        state = "their folder cannot be read"
    size = counted(min(manifest["chunk"], len(told)), "query", "queries")
    tolerance = options["tolerance"]
    asked = f"rule {options['rule']!r}, nodes {options['nodes']}, tolerance {tolerance}"
    if options["layers"]:
        asked += ", by_parameter"
    lines = [
        head,
        f"chunks: {total:,} of at most {size}, {state}, {where}",
        f"run: {run['optimizer']}, {counted(len(run['trained']), 'tensor')} trained",
        f"options: {asked}",
    ]
    return "\n  ".join(lines)
