"""The static side of an explorer: every frame on the page, one of them visible."""

import html
import json
from collections.abc import Sequence
from importlib import resources

from pkbook.lab.explorers.controls import Control, Frame
from pkbook.lab.plots.tracing import id_names, in_scroller, write_definitions


def flipbook(controls: Sequence[Control], frames: Sequence[Frame]) -> str:
    """One `<div>` with native sliders, all `frames` (last control fastest), style and script.

    It needs no kernel and no other file, so it works from a disk as well. Frames share their
    definitions (glyphs, markers), which halves the size and keeps ids unique. Without scripts the
    initial frame remains, with its description.
    """
    start = {index: control.initial for index, control in enumerate(controls)}
    first = next(
        place
        for place, frame in enumerate(frames)
        if all(value == start[k] for k, value in enumerate(frame.values.values()))
    )
    drawings = [frame.drawing for frame in frames]
    shared = {key: text for drawing in drawings for key, text in drawing.definitions.items()}
    names = id_names(shared, *(drawing.body for drawing in drawings))
    pages = "".join(
        f"<div data-frame{'' if place == first else ' hidden'}>"
        f"{frame.drawing.markup(frame.alt, names, definitions=False)}</div>"
        for place, frame in enumerate(frames)
    )
    title = html.escape(", ".join(control.label for control in controls))
    # The shared definitions must be laid out to work: no size instead of display:none.
    return (
        f'<div class="pk-flipbook" role="group" aria-label="Explorer: {title}">'
        f"<style>{_asset('flipbook.css')}</style>"
        f'<div class="pk-controls" hidden>{"".join(_slider(control) for control in controls)}</div>'
        '<svg width="0" height="0" aria-hidden="true" style="position:absolute">'
        f"{write_definitions(shared, names)}</svg>"
        f"{in_scroller(drawings, pages)}"
        f'<p class="pk-caption" aria-live="polite">{html.escape(frames[first].alt)}</p>'
        f"<script>{_asset('flipbook.js')}</script></div>"
    )


def _slider(control: Control) -> str:
    place = control.values.index(control.initial)
    texts = html.escape(json.dumps(control.texts))
    now = html.escape(control.texts[place])
    return (
        f"<label><span>{html.escape(control.label)}</span>"
        f'<input type="range" min="0" max="{len(control.values) - 1}" step="1" value="{place}" '
        f'autocomplete="off" aria-valuetext="{now}" data-texts="{texts}">'
        f'<span class="pk-value" aria-hidden="true">{now}</span></label>'
    )


def _asset(name: str) -> str:
    text = resources.files("pkbook.lab.explorers").joinpath(name).read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if not line.startswith("//"))
