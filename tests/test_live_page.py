"""How the explorers' JavaScript gets onto a page: the bundle, the output, the shared files."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from test_live_core import LIVE, ROOT, node

from pkbook.lab import plots
from pkbook.lab.live import Live, bundle

sys.path.insert(0, str(ROOT / "tools"))

from shared_scripts import share_scripts

EXPLORERS = sorted(p.stem for p in LIVE.glob("*.js") if p.stem not in ("core", "frame", "loader"))


def still():
    fig, ax = plots.figure()
    ax.plot([0, 1], [0, 1])
    return fig


def live(**settings) -> Live:
    return Live("playground", alt="A line that rises.", still=still, settings=settings)


def test_every_module_gives_the_page_what_it_gives_to_import():
    modules = dict.fromkeys(m for name in ("core", "frame", *EXPLORERS)
                            for m in bundle.needed(f"{name}.js"))  # fmt: skip
    on_disk = {p.relative_to(LIVE).as_posix() for p in LIVE.rglob("*.js")} - {"loader.js"}
    assert set(modules) == on_disk
    given = {
        "scripts": [bundle.shared_script(), *map(bundle.own_script, EXPLORERS)],
        "version": bundle.version(),
        "files": {name: (LIVE / name).as_uri() for name in modules},
    }
    command = [node(), str(ROOT / "tests" / "live_names.mjs")]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["globals"] == ["console", "document", "pkLive", "window"]
    for name, names in told["told"].items():
        assert names["made"] == names["imported"] != [], name


@pytest.mark.parametrize(
    "text",
    ['import core from "./core.js";', 'import * as core from "./core.js";', "export default 1;",
     'export * from "./core.js";', "export let a = 1;", "export const a = 1, b = 2;",
     'const core = await import("./core.js");'],
)  # fmt: skip
def test_forms_that_the_bundle_does_not_know_are_refused(monkeypatch, text):
    monkeypatch.setattr(bundle, "source", lambda name: f"const x = 1;\n{text}\n")
    with pytest.raises(ValueError, match=r"odd\.js: .*must"):
        bundle.as_function("odd.js")


def test_modules_in_a_circle_are_refused(monkeypatch):
    texts = {"a.js": 'import { b } from "./b.js";', "b.js": 'import { a } from "./a.js";'}
    monkeypatch.setattr(bundle, "source", texts.__getitem__)
    with pytest.raises(ValueError, match="circle"):
        bundle.needed("a.js")


def test_the_output_holds_the_still_picture_and_its_scripts():
    html = live(lr=0.3).html()
    assert 'data-explorer="playground"' in html
    assert 'data-settings="{&quot;lr&quot;: 0.3}"' in html
    assert re.search(r'class="pk-still">.*<svg [^>]*aria-label="A line that rises."', html)
    marks = re.findall(r'<script data-pk-live="([\w-]+)">', html)
    assert marks == [f"shared-{bundle.version()}", f"playground-{bundle.version()}"]
    assert "/**" not in html  # what readers of the source need, pages do not
    assert "http" not in re.sub(r"http://www.w3.org/[\w/]+", "", html)


def test_bad_input_is_refused():
    with pytest.raises(FileNotFoundError):
        Live("nothing", alt="A line that rises.", still=still)
    with pytest.raises(ValueError, match="alt"):
        Live("playground", alt=" ", still=still)
    with pytest.raises(TypeError):
        live(lr=still)
    with pytest.raises(TypeError, match="still"):
        Live("playground", alt="A line that rises.", still=lambda: 3).html()


def test_the_site_writes_each_script_once(tmp_path):
    html = live().html()
    for name, times in (("one", 1), ("deep/two", 2)):
        path = tmp_path / "book" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        output = nbformat.v4.new_output("execute_result", {"text/html": html}, execution_count=1)
        cells = [nbformat.v4.new_code_cell("x", outputs=[output]) for _ in range(times)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    files = share_scripts(tmp_path)
    assert len(files) == 2
    for name, up in (("one", "../"), ("deep/two", "../../")):
        text = (tmp_path / "book" / f"{name}.ipynb").read_text(encoding="utf8")
        for file in files:
            assert f'src=\\"{up}_static/live/{file.name}\\"' in text
        assert "data-pk-live" not in text
    assert {f.read_text(encoding="utf8") for f in files} == {
        bundle.shared_script(), bundle.own_script("playground")
    }  # fmt: skip


def test_the_core_is_short_enough_to_read():
    lines = {p: len(p.read_text(encoding="utf8").splitlines()) for p in Path(LIVE).rglob("*.js")}
    assert max(lines.values()) < 350
    assert sum(n for p, n in lines.items() if p.parent.name == "core") < 700
