"""The built site is made light: formulas drawn, icons inline, rules in the page."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import finish_site  # noqa: E402
import mathematics  # noqa: E402
import page_icons  # noqa: E402
import page_sections  # noqa: E402
import page_styles  # noqa: E402

MATHJAX = ROOT / "node_modules" / "mathjax" / "es5"
FORMULAS = (
    r'<p>Let <span class="math notranslate nohighlight">\(a&lt;b_1\)</span>.</p>'
    r'<div class="math notranslate nohighlight" id="e"><span class="eqno">(1)</span>'
    r"\[\begin{aligned}\boldsymbol{x}&amp;=\int_0^1 f\,dt\end{aligned}\]</div>"
)
PAGE = """<!DOCTYPE html><html data-content_root="../"><head>
<script>
    document.documentElement.dataset.theme = localStorage.getItem("theme") || "auto";
</script>
<link href="../_static/styles/theme.css?v=1" rel="stylesheet" />
<link rel="preload" as="script" href="../_static/scripts/bootstrap.js" />
<script defer src="../_static/scripts/fontawesome.js?v=1"></script>
<script src="../_static/documentation_options.js?v=1"></script>
<script src="../_static/custom.js"></script>
<script>window.MathJax = {{"options": {{}}}}</script>
<script defer="defer" src="../_static/vendor/mathjax/tex-svg.js"></script>
<script src="../_static/searchtools.js"></script><script src="../searchindex.js"></script>
</head><body><i class="fa-solid fa-list fa-lg" data-mode="x"></i>{}
<article class="bd-article"><section id="a"><section id="b"><p>Words</p></section></section>
</article>
</body></html>"""
FILES = {
    "_static/styles/theme.css": '@import "../basic.css";\n.used, .idle-class { color: red }\n'
    ".idle-class { top: 0 } p:hover { --read: 1; --idle: 2; top: var(--read) }"
    "@media (min-width: 9px) { .idle-class { top: 1px } .used { top: url(a.png) } }",
    "_static/basic.css": ".set-by-script { background: url('b.png') } /* words */",
    "_static/documentation_options.js": "const DOCUMENTATION_OPTIONS = {};",
    "_static/custom.js": 'node.classList.add("set-by-script")',
    "_static/scripts/fontawesome.js": 'x={list:[512,256,[],"f03a","M0 0z"],"up":[1,1,[],"f1",""]}',
    "_static/vendor/mathjax/tex-svg.js": "",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "book").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf8")
    used = '<p class="used">Plain.</p>'
    (tmp_path / "book" / "plain.html").write_text(PAGE.format(used), encoding="utf8")
    (tmp_path / "book" / "text.html").write_text(PAGE.format(FORMULAS), encoding="utf8")
    return tmp_path


def read(site: Path, name: str) -> str:
    return (site / "book" / f"{name}.html").read_text(encoding="utf8")


def test_without_mathjax_the_pages_draw_their_own_formulas(site: Path, tmp_path: Path) -> None:
    (told,) = finish_site.finish(site, tmp_path / "nowhere")
    assert "no MathJax in" in told
    assert "tex-svg.js" in read(site, "text")
    assert r"\(a&lt;b_1\)" in read(site, "text")
    assert "tex-svg.js" not in read(site, "plain"), "a page without formulas loads no script"
    assert "<style>" in read(site, "text")


def test_scripts_wait_and_only_those_in_use_are_asked_for(site: Path, tmp_path: Path) -> None:
    finish_site.finish(site, tmp_path)
    page = read(site, "plain")
    sources = re.findall(r'<script([^>]*)src="([^"]*)"', page)
    assert [source for _, source in sources] == ["../_static/custom.js"]
    assert all("defer" in before for before, _ in sources)
    assert "const DOCUMENTATION_OPTIONS = {};" in page
    assert "preload" not in page
    assert "prefers-color-scheme" in page
    assert not (site / "_static" / "scripts" / "fontawesome.js").exists()


def test_rules_in_use_stand_in_the_page_and_no_others(site: Path, tmp_path: Path) -> None:
    finish_site.finish(site, tmp_path)
    page = read(site, "plain")
    (rules,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert 'rel="stylesheet"' not in page
    assert "idle" not in rules
    assert ".used{color: red}" in rules
    assert "p:hover{--read: 1; top: var(--read)}" in re.sub(r"\s+", " ", rules)
    assert '@media (min-width: 9px){.used{top: url("../_static/styles/a.png")}}' in rules
    assert '.set-by-script{background: url("../_static/b.png")}' in rules, "scripts may set it"


def test_icons_are_inline_and_hidden_from_screen_readers(site: Path, tmp_path: Path) -> None:
    finish_site.finish(site, tmp_path)
    page = read(site, "plain")
    assert "fa-" not in page
    (icon,) = re.findall(r"<svg.*?</svg>", page)
    assert 'viewBox="0 0 512 256"' in icon
    assert 'aria-hidden="true"' in icon
    assert 'data-mode="x"' in icon
    assert 'd="M0 0z"' in icon


def test_the_search_finds_ids_with_dots(site: Path) -> None:
    """In Sphinx's own script, as it is installed; it must have the line that is changed."""
    theirs = Path(sphinx.__file__).parent / "themes" / "basic" / "static" / "searchtools.js"
    script = site / "_static" / "searchtools.js"
    script.write_text(theirs.read_text(encoding="utf8"), encoding="utf8")
    finish_site.find_any_anchor(script)
    text = script.read_text(encoding="utf8")
    assert text.count(finish_site.ANCHOR) == 1
    assert '[role="main"] ${anchor}' not in text


def test_glyphs_of_the_icon_font_become_masks() -> None:
    shapes = {"f05a": page_icons.Shape(1, 1, "M0")}
    css = 'html{--pst-icon-a:"\\f05a"}a:after{content:var(--pst-icon-a);font:var(--fa-font-solid)}'
    made = page_icons.masks_for_glyphs(css, shapes)
    assert '--pst-icon-a:url("data:image/svg+xml,' in made
    assert 'content:"";--pk-icon:var(--pst-icon-a)' in made
    assert "mask:var(--pk-icon)" in made
    assert "fa-font" not in made


def test_selectors_are_kept_where_any_form_may_match() -> None:
    words = {"div", "seen", "p"}
    kept = ":is(.seen, .gone) p{top:0}:root{top:2px}p:not(.gone)::after{top:3px}"
    gone = ".gone :is(.seen){top:1px}div#gone{top:2px}"
    assert page_styles.used(kept + gone, words) == kept


def test_sections_carry_a_rough_height() -> None:
    one = "<section id='c'><p>" + "word " * 800 + "</p></section>"
    text = f"<section id='a'>{one}<section id='d'><section id='e'></section></section></section>"
    made = page_sections.with_heights(text)
    heights = [int(found) for found in re.findall(r"size:auto (\d+)px", made)]
    assert len(heights) == 2, "only sections of second level"
    assert 900 < heights[0] < 2000
    assert re.sub(r' style="[^"]*"', "", made) == text


@pytest.fixture(scope="module")
def drawn() -> mathematics.Mathematics:
    if not MATHJAX.exists():
        pytest.skip("MathJax is not here; tools/vendor.py fetches it")
    formulas = mathematics.formulas_of({Path("a"): FORMULAS})
    return mathematics.draw(formulas, MATHJAX)


def test_formulas_are_drawn_with_words_for_screen_readers(drawn: mathematics.Mathematics) -> None:
    made = mathematics.put_in(FORMULAS, drawn.formulas)
    assert made.count("<mjx-container") == made.count("<math") == 2
    assert "<mo>&lt;</mo>" in made
    assert "tabindex" not in made, "a formula is no stop of the tab key"
    assert '<span class="eqno">(1)</span><mjx-container' in made
    assert "\\(" not in made
    assert not re.search("merror|red", made)


def test_fonts_hold_the_glyphs_in_use_and_little_else(drawn: mathematics.Mathematics) -> None:
    assert "@font-face" not in drawn.rules
    for family in ("MJXTEX", "MJXTEX-I", "MJXTEX-BI", "MJXZERO"):
        assert f"font-family:{family};" in drawn.fonts
    assert "MJXTEX-FR" not in drawn.fonts
    assert len(drawn.fonts) < 60_000
    assert "mjx-math {\n  font-family: MJXZERO, MJXTEX;" in drawn.rules


def test_a_formula_in_error_is_not_hidden(drawn: mathematics.Mathematics) -> None:
    bad = mathematics.draw([(r"\nosuchmacro x", False), (r"\frac{", False)], MATHJAX)
    assert "red" in bad.formulas[(r"\nosuchmacro x", False)]
    assert "merror" in bad.formulas[(r"\frac{", False)]


def test_landing_page_without_formulas_has_no_mathematics(site: Path) -> None:
    if not MATHJAX.exists():
        pytest.skip("MathJax is not here; tools/vendor.py fetches it")
    assert finish_site.finish(site, MATHJAX) == []
    assert not re.search(r"mjx|mathematics\.css|MathJax", read(site, "plain"))
    text = read(site, "text")
    assert text.count("<mjx-container") == 2
    assert 'href="../_static/mathematics.css"' in text
    assert not (site / "_static" / "vendor" / "mathjax").exists()
