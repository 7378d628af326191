"""From a matplotlib figure to SVG that can stand inside any page.

Matplotlib's SVG is a document: it names its parts "text_1", styles every `<path>` of the page it
lands on, and paints black. `trace` takes the drawing out of it; `Drawing.markup` writes it as an
element of HTML whose ids no other figure has and whose black is the page's own ink.
"""

import base64
import hashlib
import html
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree as ET

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from PIL import Image

from pkbook.lab.plots import vector
from pkbook.lab.plots.house import style
from pkbook.lab.plots.legible import second_cue

SMALLEST_SHARE = 0.7  # a figure shrinks to this share of its size, then scrolls sideways instead
PHONE_PIXELS = 320  # what a page 360 pixels wide leaves for a figure
PICTURE_DPI = 150  # of what is rasterised

_MARK = re.compile(r"pkid-([0-9a-f]{12})")  # stands for an id until its name on the page is known
_DECIMALS = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r'(?<=url\(#)[^)"]+|(?<=href="#)[^"]+')
_PNG = "data:image/png;base64,"


@dataclass(frozen=True)
class Drawing:
    """What a figure draws, and the definitions (glyphs, markers, clips) it refers to by key."""

    width: float  # points
    height: float
    body: str
    definitions: Mapping[str, str]
    cuts: tuple[float, ...] = ()
    """Where nothing stands between two panels side by side, points from the left."""

    @property
    def least_pixels(self) -> float:
        """The width below which its text would be too small to read."""
        return SMALLEST_SHARE * self.width * 96 / 72

    @property
    def falls_apart(self) -> bool:
        """Whether a phone is too narrow for the whole, and not for any of its panels."""
        widest = max(right - left for left, right in self._panels())
        share = widest / self.width
        return self.least_pixels > PHONE_PIXELS >= share * self.least_pixels

    def _panels(self) -> Iterator[tuple[float, float]]:
        return pairwise((0.0, *self.cuts, self.width))

    def in_panels(self, alt: str, names: Mapping[str, str]) -> str:
        """The drawing as panels that stand side by side, or below each other on a phone.

        All show the one drawing, each its part.
        """
        whole = f"pk{hashlib.sha256(f'{alt}{self.body}'.encode()).hexdigest()[:8]}-all"
        held = write_definitions(self.definitions, names)
        shown = f'{held}<g id="{whole}">{_named(self.body, names)}</g>'
        panels = []
        for left, right in self._panels():
            width, share = right - left, (right - left) / self.width
            panels.append(
                f'<svg viewBox="{left:g} 0 {width:g} {self.height:g}" fill="currentColor" '
                'stroke-linejoin="round" aria-hidden="true" '
                f'style="flex:{width:.0f} 1 {share * self.least_pixels:.0f}px;'
                f'max-width:{width * 96 / 72:.0f}px;height:auto">{shown}</svg>'
            )
            shown = f'<use href="#{whole}"/>'
        return (
            f'<div class="pk-figure" role="img" aria-label="{html.escape(alt)}" '
            'style="display:flex;flex-wrap:wrap;justify-content:center;align-items:flex-start">'
            f"{''.join(panels)}</div>"
        )

    def markup(self, alt: str, names: Mapping[str, str], *, definitions: bool = True) -> str:
        """The `<svg>` element, with `names` (key -> id) for its definitions.

        Without `definitions` the page has to hold them elsewhere (see `write_definitions`).
        """
        sizes = f"width:100%;max-width:{self.width * 96 / 72:.0f}px;height:auto;display:block"
        if self.least_pixels > PHONE_PIXELS:
            sizes += f";min-width:{self.least_pixels:.0f}px"
        head = (
            f'<svg class="pk-figure" viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'aria-label="{html.escape(alt)}" fill="currentColor" stroke-linejoin="round" '
            f'style="{sizes};margin:0 auto">'
        )
        held = write_definitions(self.definitions, names) if definitions else ""
        return f"{head}{held}{_named(self.body, names)}</svg>"


def in_scroller(drawings: Iterable[Drawing], markup: str) -> str:
    """`markup` that shows `drawings`, made to scroll sideways on a phone if one of them is wide."""
    if max(drawing.least_pixels for drawing in drawings) <= PHONE_PIXELS:
        return markup
    # Focusable, so that the arrow keys scroll it; a group, because regions crowd the landmarks.
    return (
        '<div class="pk-scroll" style="overflow-x:auto" tabindex="0" role="group" '
        f'aria-label="Figure, scrolls sideways on a narrow screen">{markup}</div>'
    )


def id_names(definitions: Mapping[str, str], *parts: str) -> dict[str, str]:
    """Ids (key -> id) that belong to this content only, the same in every run.

    >>> id_names({"k": ""}, "one") == id_names({"k": ""}, "one") != id_names({"k": ""}, "two")
    True
    """
    content = chr(0).join([*definitions, *definitions.values(), *parts])
    prefix = f"pk{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    return {key: f"{prefix}-{place}" for place, key in enumerate(definitions)}


def write_definitions(definitions: Mapping[str, str], names: Mapping[str, str]) -> str:
    """The `<defs>` element."""
    return f"<defs>{_named(''.join(definitions.values()), names)}</defs>" if definitions else ""


def trace(fig: Figure, *, apart: bool = False) -> Drawing:
    """Draw the figure and take it out of its document; the figure itself stays as it was.

    With ``apart`` also find where its panels may be parted, which costs a look at every text.
    """
    buffer = io.BytesIO()
    with (
        style(),
        matplotlib.rc_context({"svg.hashsalt": "pkbook"}),
        _as_seen(fig),
        vector.laid_out(fig),
    ):
        fig.savefig(
            buffer,
            format="svg",
            backend=f"module://{vector.__name__}",
            dpi=PICTURE_DPI,
            transparent=True,
            metadata={"Date": None},
        )
        cuts = _cuts(fig) if apart else ()
    root = ET.fromstring(buffer.getvalue())
    for node in root.iter():
        _rewrite(node)
    found = _take_definitions(root)
    keys = {name: hashlib.sha256(text.encode()).hexdigest()[:12] for name, text in found.items()}

    def referred(text: str) -> str:
        return _REFERENCE.sub(lambda name: f"pkid-{keys[name.group()]}", text)

    definitions = {
        keys[name]: re.sub(r"^<(\w+)", rf'<\1 id="pkid-{keys[name]}"', referred(text))
        for name, text in found.items()
    }
    for node in root.iter():
        _merge(node)
    width, height = (float(number) for number in root.attrib["viewBox"].split()[2:])
    body = "".join(_text(child) for child in root if child.tag == "g")
    return Drawing(width, height, referred(body), definitions, cuts)


def _cuts(fig: Figure) -> tuple[float, ...]:
    """Between which panels nothing stands, points from the left: in the middle of each gap."""
    artists = [*fig.axes, *fig.legends, *fig.texts, *fig.subfigs]
    boxes = ((artist, artist.get_tightbbox()) for artist in artists if artist.get_visible())
    spans = sorted(
        (float(box.x0), float(box.x1), isinstance(artist, Axes) and _leans(artist))
        for artist, box in boxes
        if box is not None
    )
    cuts, reach = [], math.inf
    for left, right, leans in spans:
        if left > reach and not leans:
            cuts.append(round((left + reach) / 2 * 72 / fig.dpi, 1))
        reach = right if reach == math.inf else max(reach, right)
    return tuple(cuts)


def _leans(ax: Axes) -> bool:
    """Whether axes mean nothing without their neighbour: a colour bar, or numbers left to it."""
    if ax.get_label() == "<colorbar>":
        return True
    shared = ax.get_shared_y_axes().get_siblings(ax)
    bare = not any(tick.label1.get_visible() for tick in ax.yaxis.get_major_ticks())
    return len(shared) > 1 and ax.axison and bare


@contextmanager
def _as_seen(fig: Figure) -> Iterator[None]:
    """The figure with bare legends, and with a second cue where lines differ by colour alone."""
    with _bare_legends(fig), second_cue(fig):
        yield


@contextmanager
def _bare_legends(fig: Figure) -> Iterator[None]:
    """Savefig's `transparent` forgets legends: a white box would hide light text in it."""
    frames = [legend.get_frame() for legend in fig.findobj(Legend)]
    before = [frame.get_visible() for frame in frames]
    for frame in frames:
        frame.set_visible(False)
    try:
        yield
    finally:
        for frame, visible in zip(frames, before, strict=True):
            frame.set_visible(visible)


def _rewrite(node: ET.Element) -> None:
    """HTML's own spelling, black as currentColor, lengths to a hundredth of a point."""
    node.tag = node.tag.rpartition("}")[2]
    node.text = node.tail = None
    for name in list(node.attrib):
        value = node.attrib.pop(name)
        name = name.rpartition("}")[2]  # xlink:href is href by now
        if name in {"style", "fill", "stroke"}:
            value = value.replace("#000000", "currentColor").replace(": ", ":").replace("; ", ";")
        elif name in {"d", "x", "y"}:
            value = _rounded(value, 2)
        elif name == "transform" and "translate" in value:
            value = _rounded(value, 4)  # a scale may stand beside the shift
        elif name == "href" and value.startswith(_PNG):
            value = _smaller_picture(value)
        node.set(name, value)


def _rounded(text: str, decimals: int) -> str:
    def short(number: re.Match) -> str:
        return f"{float(number.group()):.{decimals}f}".rstrip("0").rstrip(".")

    return _DECIMALS.sub(short, " ".join(text.split()))


def _smaller_picture(address: str) -> str:
    """The same pixels with a palette where 256 colours are enough, as for any colour map."""
    data = base64.b64decode(address.removeprefix(_PNG))
    pixels = np.ascontiguousarray(np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")))
    colours, places = np.unique(pixels.view(np.uint32)[..., 0], return_inverse=True)
    if len(colours) <= 256:
        picture = Image.fromarray(places.reshape(pixels.shape[:2]).astype(np.uint8))
        picture.putpalette(colours.tobytes(), rawmode="RGBA")
        buffer = io.BytesIO()
        picture.save(buffer, format="png", optimize=True)
        data = min(data, buffer.getvalue(), key=len)
    return _PNG + base64.b64encode(data).decode()


def _take_definitions(root: ET.Element) -> dict[str, str]:
    """Move what stands in `<defs>` out of the tree, and drop every id."""
    found = {}
    for parent in list(root.iter()):
        for holder in [child for child in parent if child.tag == "defs"]:
            parent.remove(holder)
            # A style sheet would reach the whole page; its one rule stands on <svg> instead.
            found |= {child.attrib.pop("id"): child for child in holder if child.tag != "style"}
    for node in root.iter():
        node.attrib.pop("id", None)
    return {name: _text(child) for name, child in found.items()}


def _merge(node: ET.Element) -> None:
    """Gather what neighbouring children share: scatter plots repeat it for every point."""
    children = []
    for child in node:
        previous = children[-1] if children else None
        clipped = child.tag == "g" and set(child.attrib) == {"clip-path"}
        if clipped and previous is not None and previous.attrib == child.attrib:
            previous.extend(child)
        else:
            children.append(child)
    node[:] = children
    styles = {child.get("style") for child in node}
    if node.tag == "g" and len(node) > 1 and len(styles) == 1 and "style" not in node.attrib:
        shared = styles.pop()
        # Opacity is not inherited: on a group it would fade the group as a whole.
        if shared and not re.search(r"(^|;)opacity", shared):
            node.set("style", shared)
            for child in node:
                del child.attrib["style"]


def _named(text: str, names: Mapping[str, str]) -> str:
    return _MARK.sub(lambda mark: names[mark.group(1)], text)


def _text(node: ET.Element) -> str:
    return ET.tostring(node, encoding="unicode").replace(" />", "/>")
