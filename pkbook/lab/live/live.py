"""An explorer that needs no kernel: what it computes is computed by the reader's browser."""

import html
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from matplotlib.figure import Figure

from pkbook.lab.live import bundle
from pkbook.lab.plots.inline import checked_alt, close
from pkbook.lab.plots.tracing import Drawing, id_names, in_scroller, trace


@dataclass(frozen=True)
class Live:
    """One of the explorers of this folder, as the last line of a cell.

    The same modules run in JupyterLab, on the static page over http and from a folder, and in Node
    for the tests.  On a page each explorer brings its scripts along; the book's build puts them
    into one file for all pages.  Without scripts the still picture remains, with its words.

    Args:
        name: of the module, ``"playground"`` for ``playground.js``.
        alt: what is to be seen on the still picture.
        still: draws that picture, a matplotlib Figure, or is the traced Drawing itself.
        settings: initial values of the explorer's controls, by their key in the module.
        data: what the module computes with (pictures, texts), as its ``start`` gets it after the
            settings.  The book's build puts it into a file of its own, once for all pages.

    Raises FileNotFoundError for a name without a module, TypeError for settings or data that JSON
    does not know or a ``still`` that draws no Figure, ValueError for an empty ``alt``.
    """

    name: str
    alt: str
    still: Drawing | Callable[[], Figure]
    settings: Mapping[str, object] = field(default_factory=dict)
    data: Mapping[str, object] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        checked_alt(self.alt)
        bundle.source(f"{self.name}.js")
        json.dumps([dict(self.settings), dict(self.data)])

    def html(self) -> str:
        """The still picture in its box, and the scripts that bring the box to life."""
        settings = html.escape(json.dumps(dict(self.settings)))
        version = bundle.version()
        return (
            f'<div class="pk-live" data-explorer="{self.name}" data-version="{version}" '
            f'data-settings="{settings}"><div class="pk-still">{self._picture()}'
            f"<p>{html.escape(self.alt)}</p></div></div>"
            f"{_script('shared', bundle.shared_script())}{self._data()}"
            f"{_script(self.name, bundle.own_script(self.name))}"
        )

    def _data(self) -> str:
        if not self.data:
            return ""
        text = bundle.data_script(self.name, self.data)
        return _script(f"{self.name}-data-{sha256(text.encode()).hexdigest()[:8]}", text)

    def _repr_html_(self) -> str:
        return self.html()

    def _picture(self) -> str:
        drawing = self.still
        if not isinstance(drawing, Drawing):
            figure = drawing()
            if not isinstance(figure, Figure):
                raise TypeError(f"still: expected to get a Figure, got {type(figure).__name__}")
            drawing = trace(figure)
            close(figure)
        names = id_names(drawing.definitions, "still", drawing.body)
        return in_scroller([drawing], drawing.markup(self.alt, names))


def _script(name: str, text: str) -> str:
    """Marked by name and version, so that a build can share it between pages."""
    return f'<script data-pk-live="{name}-{bundle.version()}">{text}</script>'
