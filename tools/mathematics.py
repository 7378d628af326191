"""Draw the formulas of a built site once, on the machine that builds it.

The reader's browser then loads no mathematics script: the pages hold what MathJax makes of each
formula, with MathML beside it for screen readers, and share a small style sheet and the few glyphs
that the book uses. Without Node.js the pages keep MathJax's script and draw their own formulas.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vendor import AssetsUnavailable, node_command

FORMULA = re.compile(
    r'(?P<open><(?P<tag>span|div) class="math notranslate nohighlight"[^>]*>'
    r"(?:\s*<span class=\"eqno\">.*?</span>)?)\s*"
    r"(?P<mark>\\\(|\\\[)(?P<tex>.*?)(?:\\\)|\\\])\s*</(?P=tag)>",
    re.DOTALL,
)
SCRIPTS = re.compile(
    r"\s*<script>window\.MathJax = .*?</script>|\s*<script[^>]*mathjax[^>]*></script>", re.DOTALL
)
FACE = re.compile(
    r'@font-face[^{]*\{\s*font-family:\s*(?P<family>[^;]+);\s*src:\s*url\("[^"]*/(?P<file>[^"/]+)"\)'
    r"[^}]*\}"
)
# What MathJax would write into every container, and what the theme's own rules would disturb.
CONTAINER = """
mjx-container { position: relative; }
mjx-container[jax="CHTML"] { font-size: 113%; line-height: 0; }
mjx-container[jax="CHTML"] mjx-assistive-mml { font-size: 88%; }
"""
Drawn = Mapping[tuple[str, bool], str]


class NotDrawn(RuntimeError):
    """The formulas cannot be drawn here; the text says why."""


@dataclass(frozen=True)
class Mathematics:
    """The drawn formulas, the rules that lay them out, and the fonts, a style sheet of its own."""

    formulas: Drawn
    rules: str
    fonts: str


def key(found: re.Match) -> tuple[str, bool]:
    """The formula of a match: its TeX and whether it is displayed."""
    return html.unescape(found["tex"]).strip(), found["mark"] == r"\["


def formulas_of(pages: Mapping[Path, str]) -> list[tuple[str, bool]]:
    """Every formula of the pages, each once."""
    return sorted({key(found) for text in pages.values() for found in FORMULA.finditer(text)})


def draw(formulas: list[tuple[str, bool]], mathjax: Path) -> Mathematics:
    """Draw the formulas with the MathJax of that folder. Raises NotDrawn."""
    if not (mathjax / "node-main.js").exists():
        raise NotDrawn(f"no MathJax in {mathjax}")
    script = Path(__file__).with_name("mathematics.js")
    try:
        command = [*node_command(), str(script), str(mathjax)]
        done = subprocess.run(
            command, input=json.dumps(formulas), capture_output=True, encoding="utf8", timeout=600
        )
    except (OSError, subprocess.TimeoutExpired, AssetsUnavailable) as error:
        raise NotDrawn(str(error)) from error
    if done.returncode:
        raise NotDrawn(f"MathJax failed: {done.stderr[-2000:]}")
    told = json.loads(done.stdout)
    rules, fonts = split_fonts(told["css"], "".join(told["html"]), mathjax)
    return Mathematics(dict(zip(formulas, told["html"], strict=True)), rules, fonts)


def split_fonts(css: str, markup: str, mathjax: Path) -> tuple[str, str]:
    """``(rules, faces)``: the faces hold, as data, only the glyphs that the rules name."""
    rules = FACE.sub("", css)
    glyphs = glyphs_by_font(rules)
    wanted = {f"MJXTEX-{name}" for name in re.findall(r"TEX-([A-Z0-9]+)", markup)}
    wanted |= {"MJXTEX", "MJXTEX-S1", "MJXTEX-S4", "MJXZERO"}  # brackets that stretch use these
    folder, faces = mathjax / "output" / "chtml" / "fonts" / "woff-v2", []
    for found in FACE.finditer(css):
        family = found["family"]
        if family in wanted:
            font = (folder / found["file"]).read_bytes()
            if family != "MJXZERO":  # that one is empty, and meant to be
                font = subset(folder / found["file"], glyphs.get(family, set()) | glyphs[""])
            source = f'url("data:font/woff;base64,{base64.b64encode(font).decode()}")'
            faces.append(f"@font-face{{font-family:{family};src:{source} format('woff')}}")
    return rules.replace(".MJX-TEX", "mjx-math") + CONTAINER, "\n".join(faces)


def glyphs_by_font(rules: str) -> dict[str, set[str]]:
    """The characters that the rules show in each font; under "" those of stretched brackets."""
    found: dict[str, set[str]] = {"": set()}
    for selector, text in re.findall(r'([^{}]*)\{[^}]*content: "([^"]*)"', rules):
        variant = re.search(r"\.TEX-([A-Z0-9]+)", selector)
        family = f"MJXTEX-{variant[1]}" if variant else "" if "stretchy" in selector else "MJXTEX"
        found.setdefault(family, set()).update(_chars(text))
    return found


def _chars(text: str) -> list[str]:
    """The characters of a string of CSS, in which a backslash begins a hexadecimal code."""
    parts = re.findall(r"\\([0-9A-Fa-f]{1,6}) ?|(.)", text)
    return [chr(int(code, 16)) if code else char for code, char in parts]


def subset(font: Path, glyphs: set[str]) -> bytes:
    """The font with these glyphs only."""
    from fontTools import subset as tool  # slow to import, and needed only here

    options = tool.Options(flavor="woff", layout_features=[], notdef_outline=True, hinting=False)
    options.drop_tables += ["FFTM"]  # the maker's time stamps
    with tool.load_font(str(font), options, lazy=False) as loaded:
        chosen = tool.Subsetter(options)
        chosen.populate(text="".join(sorted(glyphs)))
        chosen.subset(loaded)
        out = io.BytesIO()
        tool.save_font(loaded, out, options)
    return out.getvalue()


def put_in(text: str, drawn: Drawn) -> str:
    """The page with drawn formulas, and without MathJax's script."""

    def one(found: re.Match) -> str:
        return f"{found['open']}{drawn[key(found)]}</{found['tag']}>"

    return SCRIPTS.sub("", FORMULA.sub(one, text))
