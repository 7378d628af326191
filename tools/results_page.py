"""The results page: every claim of the paper with what the executed chapters found.

Findings are taken from the outputs of the executed notebooks (quick preset) and from the JSON
files in ``results/`` (full preset). A claim whose chapter shows no finding fails the build; one
whose chapter is not in the book is listed as not measured.
"""

from __future__ import annotations

import json
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import torch
from claims_made import FINDING, all_claims, outputs_of

from pkbook.lab.experiments.machinery.claims import CLAIMS
from pkbook.lab.experiments.machinery.results import (
    MARKS,
    VERDICTS,
    Claim,
    Finding,
    Measured,
    from_json,
)

MARKER = "<!-- results -->"
CLAIMS_MARKER = "<!-- claims -->"


class ResultsMissing(RuntimeError):
    """Claims without a finding, or two findings for one claim; the text says which."""


def findings_in(notebook: nbformat.NotebookNode) -> list[dict]:
    """The JSON of every finding that an executed notebook shows."""
    return [data[FINDING] for data in outputs_of(notebook) if FINDING in data]


def collect(pages: dict[str, nbformat.NotebookNode]) -> dict[str, Finding]:
    """One finding for each claim, from ``{page: executed notebook}``."""
    found: dict[str, Finding] = {}
    wrong = []
    for page, notebook in pages.items():
        for told in findings_in(notebook):
            claim = CLAIMS[told["id"]]
            if claim.chapter != Path(page).name:
                wrong.append(f"{claim.id} belongs to {claim.chapter}, {page} shows it")
            elif claim.id in found:
                wrong.append(f"{claim.id} is shown twice in {page}")
            found[claim.id] = from_json(told, claim)
    chapters = {Path(page).name for page in pages}
    wrong += [
        f"{claim.id}: {claim.chapter} shows no finding"
        for claim in CLAIMS.values()
        if claim.chapter in chapters and claim.id not in found
    ]
    if wrong:
        raise ResultsMissing("; ".join(wrong))
    return found


def full_findings(folder: Path) -> dict[str, Finding]:
    """Findings of the full preset that are shipped with the book."""
    found = {}
    for path in sorted(folder.glob("*-full.json")):
        told = json.loads(path.read_text(encoding="utf8"))
        found[told["id"]] = from_json(told, CLAIMS[told["id"]])
    return found


def page(text: str, quick: dict[str, Finding], full: dict[str, Finding]) -> str:
    """The page's source with the results in place of the marker."""
    if text.count(MARKER) != 1:
        raise ResultsMissing(f"results.md must hold the line {MARKER} once")
    rows = [_row(claim, quick.get(claim.id), full.get(claim.id)) for claim in CLAIMS.values()]
    return text.replace(MARKER, "\n\n".join([_summary(quick, full), *rows]))


def overall(quick: Finding, full: Finding | None) -> str:
    """The verdict of a row: the worse one of the two presets, whose numbers stand in one table."""
    verdicts = [found.verdict for found in (quick, full) if found is not None]
    return max(verdicts, key=VERDICTS.index)


def _summary(quick: dict[str, Finding], full: dict[str, Finding]) -> str:
    told = {id: overall(quick[id], full.get(id)) for id in CLAIMS if id in quick}
    counts, lines = Counter(told.values()), []
    for verdict in VERDICTS:
        rows = [id for id in told if told[id] == verdict]
        lines.append(f"* **{counts[verdict]} {verdict}**" + _links(rows))
    if missing := [c for c in CLAIMS if c not in told]:
        lines.append(f"* **{len(missing)} not measured yet**" + _links(missing))
    return "\n".join(lines)


def _links(ids: list[str]) -> str:
    links = ", ".join(f"[{id}](#result-{id.lower()})" for id in ids)
    return f": {links}" if links else ""


def _row(claim: Claim, quick: Finding | None, full: Finding | None) -> str:
    heading = f"(result-{claim.id.lower()})=\n## {claim.id}: {claim.title}"
    if quick is None:
        return f"{heading}\n\n**Not measured yet.** {claim.says} ({claim.paper})"
    parts = [
        heading,
        f"**{overall(quick, full).capitalize()}.** {claim.says} ({claim.paper}; "
        f"[chapter]({claim.chapter}.ipynb))",
    ]
    if full is not None and quick.verdict != full.verdict:
        parts.append(f"Quick preset: {quick.verdict}; full preset: {full.verdict}.")
    if quick.reason:
        parts.append(f"{quick.reason[0].upper()}{quick.reason[1:]}.")
    parts += [_numbers(claim, setting, quick, full) for setting in quick.settings]
    if full is not None:
        parts.append(_provenance(full))
    return "\n\n".join(parts)


def _numbers(claim: Claim, setting: str, quick: Finding, full: Finding | None) -> str:
    """The numbers of one setting; the full preset's beside them where it has that setting."""
    numbers, more = quick.settings[setting], None
    first = setting[0].upper() if setting[0].isascii() else setting[0]  # a Greek letter stays
    heading = f"{first}{setting[1:]}; {_spreads(numbers)}"
    if full is not None:
        name = _same(setting, quick, full)
        more = full.settings.get(name)
    if more is not None:
        heading += f". Full preset: {'' if name == setting else f'{name}; '}{_spreads(more)}"
    return "\n".join([f"{heading}:", "", *_table(claim, numbers, more)])


def _table(
    claim: Claim, numbers: Mapping[str, Measured], more: Mapping[str, Measured] | None
) -> list[str]:
    """A line for each number: its bound, what was measured, and whether that holds."""
    head = ["number", "bound", "quick", "holds?"] + (["full", "holds?"] if more else [])
    rows = [head, [":--"] * len(head)]
    for criterion in claim.criteria:
        cells = [_plain(criterion.name), criterion.threshold]
        for found in (numbers, more) if more else (numbers,):
            number = found[criterion.name]
            cells += [f"**{number}**", MARKS[criterion.judge(number)]]
        rows.append(cells)
    return [f"| {' | '.join(cells)} |" for cells in rows]


def _same(setting: str, quick: Finding, full: Finding) -> str:
    """The full preset's name of a setting: the same, or the one in its place.

    Where one preset has settings that the other lacks, only the first, the paper's own, has its
    place in both.
    """
    place, names = list(quick.settings).index(setting), list(full.settings)
    if setting in names or (len(names) != len(quick.settings) and place > 0):
        return setting
    return names[place]


def _spreads(numbers: Mapping[str, Measured]) -> str:
    """What stands in brackets behind the numbers."""
    found = {number.meaning for number in numbers.values() if number.low != number.high}
    counts = {number.count for number in numbers.values()}
    return f"in brackets {', '.join(sorted(found))}" if found else f"{max(counts)} runs"


def _provenance(full: Finding) -> str:
    text = f"Full preset: {full.verdict}"
    if full.reason:
        text += f"; {full.reason}"
    if full.seconds is not None:
        long = full.seconds >= 120
        took = f"{full.seconds / 60:.0f} minutes" if long else f"{full.seconds:.0f} seconds"
        text += f". It took {took}"
    return f"{text}.\n\n```text\n{full.made_by}\n```"


def write(
    stage: Path,
    pages: dict[str, nbformat.NotebookNode],
    results: Path,
    unexecuted: Sequence[str] = (),
) -> None:
    """Fill in the staged results page from the executed pages."""
    path = stage / "book" / "results.md"
    text = page(path.read_text(encoding="utf8"), collect(pages), full_findings(results))
    if CLAIMS_MARKER in text:
        text = text.replace(CLAIMS_MARKER, claims_section(pages, unexecuted))
    path.write_text(text, encoding="utf8")


def claims_section(
    pages: Mapping[str, nbformat.NotebookNode], unexecuted: Sequence[str] = ()
) -> str:
    """How many of the chapters' claims held on this machine, and which did not."""
    made = all_claims(pages)
    missed = [(page, text) for page, held, text in made if not held]
    held = f"{len(made) - len(missed)} of {len(made)}"
    lines = [f"On the machine that built this site ({machine()}), {held} claims held."]
    if missed:
        lines += ["", "These did not:", ""]
        lines += [f"* {_link(page)}: {_plain(text)}" for page, text in missed]
    if unexecuted:
        names = ", ".join(map(_link, unexecuted))
        lines += ["", f"Not executed, and so without claims: {names}."]
    return "\n".join(lines)


def _link(page: str) -> str:
    return f"[{Path(page).name}]({Path(page).name}.ipynb)"


def _plain(text: str) -> str:
    """Text in which Markdown sees no marks."""
    return re.sub(r"([\\`*_{}\[\]<>$|])", r"\\\1", text)


def machine() -> str:
    """What numbers depend on: the processor's kind and its instructions, torch's version."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()}, {capability}, {platform.system()}, torch {torch.__version__}"
