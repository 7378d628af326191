"""Icons of the theme as inline SVG, taken from its own script, which is then not loaded.

The theme ships Font Awesome as a script of 1.5 MB and as fonts, and shows about fifteen icons.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

SHAPE = re.compile(
    r'(?:"(?P<name>[a-z0-9-]+)"|(?P<bare>[a-z0-9]+)):\[(?P<width>\d+),(?P<height>\d+),'
    r'\[(?P<others>[^\]]*)\],"(?P<code>[0-9a-f]+)","(?P<path>[^"]+)"\]'
)
ELEMENT = re.compile(r'<(i|span) class="(?P<classes>[^"]*\bfa-[^"]*)"(?P<rest>[^>]*)></\1>')
STYLES = {"fa-solid", "fa-regular", "fas", "far", "fab", "fa"}
VARIABLE = re.compile(r'(--pst-[a-z-]+):\s*"(?:\\([0-9a-f]{4})|([\ue000-\uf8ff]))"')
CONTENT = re.compile(r"content:\s*var\((--pst-(?:icon|breadcrumb)[a-z-]*)\)")
MASK = (
    "display:inline-block;width:1em;height:1em;background-color:currentColor;"
    "-webkit-mask:var(--pk-icon) center/contain no-repeat;"
    "mask:var(--pk-icon) center/contain no-repeat"
)
RULES = (
    ".pk-icon{height:1em;width:1.25em;vertical-align:-.125em;fill:currentColor;overflow:visible}"
    ".pk-icon-lg{font-size:1.25em;vertical-align:-.2em}"
)


@dataclass(frozen=True)
class Shape:
    """One icon: the size of its box and its outline."""

    width: int
    height: int
    path: str

    def svg(self, attributes: str = "") -> str:
        box = f'viewBox="0 0 {self.width} {self.height}"'
        return f'<svg {box}{attributes}><path d="{self.path}"></path></svg>'

    def url(self) -> str:
        """As an address that a style sheet can use."""
        text = self.svg(' xmlns="http://www.w3.org/2000/svg"')
        return f"url('data:image/svg+xml,{quote(text, safe=' =:/')}')".replace("'", '"')


def shapes_of(script: Path) -> dict[str, Shape]:
    """Every icon of the theme's script, by its names and by its code; solid ones where two are."""
    found: dict[str, Shape] = {}
    if not script.exists():
        return found
    for match in SHAPE.finditer(script.read_text(encoding="utf8")):
        shape = Shape(int(match["width"]), int(match["height"]), match["path"])
        names = re.findall(r'"([a-z0-9-]+)"', match["others"])
        for name in (match["name"] or match["bare"], match["code"], *names):
            found[name] = shape  # the script has brands and regular icons before the solid ones
    return found


def inline_icons(text: str, shapes: Mapping[str, Shape]) -> str:
    """The page with each ``<i class="fa-...">`` as an SVG that screen readers pass over."""

    def one(found: re.Match) -> str:
        classes = found["classes"].split()
        name = next((c[3:] for c in classes if c.startswith("fa-") and c[3:] in shapes), None)
        if name is None:
            return found[0]
        kept = [c for c in classes if not c.startswith("fa") and c not in STYLES]
        kept += ["pk-icon", *(["pk-icon-lg"] if "fa-lg" in classes else [])]
        rest = found["rest"].replace(' aria-hidden="true"', "")
        attributes = f' class="{" ".join(kept)}" aria-hidden="true" focusable="false"{rest}'
        return shapes[name].svg(attributes)

    return ELEMENT.sub(one, text)


def masks_for_glyphs(css: str, shapes: Mapping[str, Shape]) -> str:
    """The theme's rules with pictures in place of the glyphs of its icon font."""

    def variable(found: re.Match) -> str:
        code = found[2] or f"{ord(found[3]):x}"
        return f"{found[1]}:{shapes[code].url()}" if code in shapes else found[0]

    css = VARIABLE.sub(variable, css)
    css = re.sub(
        r"content:\s*var\((--pst-(?:icon|breadcrumb)[a-z-]*)\)",
        r'content:"";--pk-icon:var(\1)',
        css,
    )
    return re.sub(r"font:\s*var\(--fa-font-solid\)", MASK, css)
