"""Make the built pages light: what Sphinx wrote is turned into what a reader's browser needs.

Formulas are drawn, icons become inline SVG, the rules in use stand in the pages, scripts no longer
hold the first paint up and those of the search come only with the search page. Nothing here is
needed for a page to work: where a step cannot be done, the page stays as Sphinx made it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import mathematics
import page_facts
import page_figures
import page_icons
import page_sections
import page_styles
from page_facts import Facts
from page_icons import Shape

SHEET = re.compile(r'\s*<link[^>]*\bhref="(?P<href>[^"?]*\.css)[^"]*"[^>]*/?>')
SCRIPT = re.compile(r'<script(?P<before>[^>]*)\bsrc="(?P<src>[^"]*)"(?P<after>[^>]*)></script>')
OPTIONS = "documentation_options.js"
SEARCH = ("searchtools.js", "language_data.js", "searchindex.js")
PRELOADS = re.compile(r'\s*<link rel="preload" as="(?:script|font)"[^>]*/?>')
VIEWPORTS = re.compile(r'(<meta name="viewport"[^>]*/?>)(.*?)<meta name="viewport"[^>]*/?>', re.S)
MODE = re.compile(r"document\.documentElement\.dataset\.theme = .*?;")
# The theme settles light or dark only once its script is there; a page would flash until then.
SETTLED = """{
      const asked = localStorage.getItem("theme") || "auto";
      const dark = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
      document.documentElement.dataset.theme = asked === "auto" ? dark : asked;
    }"""
# The theme asks every block of code and every output for its width, which lays the whole page out;
# custom.js does the same for what is near.
WIDTHS = re.compile(r'\["pre","\.nboutput > \.output_area"[^\]]*\]\.join\(", "\)')
ANCHOR = '`[role="main"] [id="${anchor.slice(1)}"]`'
MATHFONTS = "mathematics.css"


class Site:
    """A built site that is being finished; ``pages`` holds its pages' text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.static = folder / "_static"
        files = [*folder.glob("*.html"), *folder.glob("book/**/*.html")]
        self.pages = {path: path.read_text(encoding="utf8") for path in sorted(files)}

    def root_of(self, path: Path) -> str:
        """What leads from a page to the folder of the site."""
        return "../" * len(path.relative_to(self.folder).parent.parts)

    def write(self) -> None:
        for path, text in self.pages.items():
            path.write_text(text, encoding="utf8")


def finish(folder: Path, mathjax: Path, facts: Facts | None = None) -> list[str]:
    """Finish the site in place; returns what could not be done, in sentences."""
    facts = facts or Facts()
    site, left = Site(folder), []
    try:
        drawn = draw_mathematics(site, mathjax)
    except mathematics.NotDrawn as error:
        drawn = ""
        left.append(f"formulas are drawn by the reader's browser: {error}")
        for path, text in site.pages.items():
            if not mathematics.FORMULA.search(text):
                site.pages[path] = mathematics.put_in(text, {})
    shapes = page_icons.shapes_of(site.static / "scripts" / "fontawesome.js")
    for path, text in site.pages.items():
        name = path.relative_to(folder).as_posix()
        text = page_figures.with_captions(page_icons.inline_icons(text, shapes))
        text = page_facts.with_times(text, name.removesuffix(".html"), facts)
        text = page_facts.with_head(text, name, facts)
        text = page_sections.with_heights(text)
        site.pages[path] = light_scripts(text, path.name, site)
    inline_styles(site, shapes, drawn)
    leave_widths_alone(site.static / "scripts" / "pydata-sphinx-theme.js")
    find_any_anchor(site.static / "searchtools.js")
    site.write()
    page_facts.write_missing_page(folder, facts)
    clear(site)
    return left


def draw_mathematics(site: Site, mathjax: Path) -> str:
    """Put drawn formulas into the pages; returns the rules that lay them out."""
    formulas = mathematics.formulas_of(site.pages)
    drawn = mathematics.draw(formulas, mathjax) if formulas else None
    link = f'<link rel="stylesheet" href="{{root}}_static/{MATHFONTS}"'
    fonts = f"{link} {LATER}><noscript>{link}></noscript>"
    for path, text in site.pages.items():
        has = mathematics.FORMULA.search(text)
        text = mathematics.put_in(text, drawn.formulas if drawn else {})
        if has:
            text = text.replace("</head>", f"{fonts.format(root=site.root_of(path))}\n  </head>", 1)
        site.pages[path] = text
    shutil.rmtree(site.static / "vendor" / "mathjax", ignore_errors=True)
    if drawn is None:
        return ""
    (site.static / MATHFONTS).write_text(drawn.fonts, encoding="utf8")
    return drawn.rules


# A sheet that does not hold the first paint up; without scripts a browser takes it for print only.
LATER = 'media="print" onload="this.media=\'all\'"'


def light_scripts(text: str, name: str, site: Site) -> str:
    """The page with scripts that wait for it, and only those that it can use."""
    options = (site.static / OPTIONS).read_text(encoding="utf8")
    tabs = 'class="sd-tab' in text

    def one(found: re.Match) -> str:
        file = found["src"].partition("?")[0].rpartition("/")[2]
        if file == OPTIONS:  # a few words, which the scripts in the page itself add to
            return f"<script>{options}</script>"
        unused = file == "fontawesome.js" or (file == "design-tabs.js" and not tabs)
        if unused or (file in SEARCH and name != "search.html"):
            return ""
        if re.search(r"\b(?:defer|async)\b", found["before"] + found["after"]):
            return found[0]
        return f'<script defer{found["before"]}src="{found["src"]}"{found["after"]}></script>'

    head, end, body = text.partition("</head>")
    head = PRELOADS.sub("", SCRIPT.sub(one, head))
    head = MODE.sub(lambda _: SETTLED, VIEWPORTS.sub(r"\1\2", head), count=1)
    return head + end + body


def leave_widths_alone(script: Path) -> None:
    """Let the theme's script pass over the boxes that custom.js looks after."""
    if script.exists():
        text = script.read_text(encoding="utf8")
        script.write_text(WIDTHS.sub('".pk-no-such-box"', text), encoding="utf8")


def find_any_anchor(script: Path) -> None:
    """Let the search find a section whose id holds a dot, as a module's does: to a selector the
    rest of the name would be a class."""
    if script.exists():
        text = script.read_text(encoding="utf8")
        found = text.replace('`[role="main"] ${anchor}`', ANCHOR)
        script.write_text(found, encoding="utf8")


def inline_styles(site: Site, shapes: Mapping[str, Shape], mathematics_rules: str) -> None:
    """Put the rules in use into each page, in the order of its links to sheets."""
    scripts = [
        path.read_text(encoding="utf8")
        for path in site.static.rglob("*.js")
        if path.name != "fontawesome.js" and "vendor" not in path.parts
    ]
    words = page_styles.words_of(site.pages.values(), scripts)
    kept = {"icons": page_icons.RULES, "": page_styles.used(mathematics_rules, words)}
    for path, text in site.pages.items():
        order = ["icons"]

        def one(found: re.Match, path: Path = path, order: list[str] = order) -> str:
            file = (path.parent / found["href"]).resolve()
            if file.name == MATHFONTS or not file.is_relative_to(site.static.resolve()):
                return found[0]
            order.append(str(file))
            return ""

        head, end, body = text.partition("</head>")
        head = SHEET.sub(one, head)
        for name in order:
            if name not in kept:
                sheet = page_styles.read_sheet(Path(name), site.folder)
                kept[name] = page_styles.used(page_icons.masks_for_glyphs(sheet, shapes), words)
        # Formulas before the book's own sheet, which has the last word.
        if "<mjx-container" in text:
            order.insert(-1, "")
        rules = "".join(kept[name] for name in order)
        rules = rules.replace(page_styles.ROOT, site.root_of(path))
        site.pages[path] = f"{head}<style>{rules}</style>\n  {end}{body}"


def clear(site: Site) -> None:
    """Remove what no page asks for any more."""
    shutil.rmtree(site.static / "vendor" / "fontawesome", ignore_errors=True)
    for name in ("scripts/fontawesome.js", "scripts/fontawesome.js.LICENSE.txt"):
        (site.static / name).unlink(missing_ok=True)
