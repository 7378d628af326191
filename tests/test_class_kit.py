"""The class kit: no markup of the site is left, solutions are where they belong, links work."""

import json
import re
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import class_kit  # noqa: E402
import launch  # noqa: E402
import open_lab  # noqa: E402
from kit import book as kit_book, editions, plain, slides  # noqa: E402

RAW = re.compile(r"^:{3,}|\{[\w:-]+\}`|^\([\w-]+\)=|<!--|^`{3}\{", re.M)
LINK = re.compile(r"\]\(([^)\s#]+\.ipynb)(?:#cell-id=([\w-]+))?\)")
TWO = ("domingos", "null_space")


@pytest.fixture(scope="module")
def book():
    return kit_book.read_book(ROOT)


@pytest.fixture(scope="module")
def made(book):
    """Every page in every edition: ``{edition: {file: notebook}}``."""
    return {
        edition: {
            page.file: editions.notebook_of(page, book, edition) for page in book.pages.values()
        }
        for edition in editions.EDITIONS
    }


def prose(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def code(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def without_code(text):
    return plain.INLINE.sub("", plain.FENCED.sub("", text))


@pytest.mark.parametrize("edition", editions.EDITIONS)
def test_no_markup_of_the_site_is_left(made, edition):
    for file, notebook in made[edition].items():
        assert not RAW.findall(without_code(prose(notebook))), file
        assert not re.search(r"\]\([\w/]+\.md", prose(notebook)), file


@pytest.mark.parametrize("edition", editions.EDITIONS)
def test_every_link_leads_to_a_cell_that_is_there(made, edition):
    count = 0
    for file, notebook in made[edition].items():
        for target, cell in LINK.findall(prose(notebook)):
            assert target in made[edition], f"{file}: {target}"
            ids = {c.id for c in made[edition][target].cells}
            assert not cell or cell in ids, f"{file}: {target}#{cell}"
            count += bool(cell)
    assert count > 300


def test_chapters_are_numbered_in_reading_order(book):
    toc = [Path(page).name for page in re.findall(r"book/\w+", (ROOT / "_toc.yml").read_text())]
    chapters = [page.name for page in book.chapters()]
    assert chapters == [name for name in toc if name in chapters]
    assert [page.file[:3] for page in book.chapters()] == [
        f"{number:02d}-" for number in range(1, len(chapters) + 1)
    ]
    files = sorted(page.file for page in book.pages.values())
    assert files[0] == "00-start_here.ipynb"
    assert [book.pages[name].file for name in chapters] == files[1 : len(chapters) + 1]


def test_a_theorem_has_its_number_and_title_and_is_called_by_it(made, book):
    cells = {c.id: c.source for c in made["student"][book.pages["domingos"].file].cells}
    number = book.pages["domingos"].number
    assert f"**Theorem {number}.1** (Domingos' theorem)" in cells["thm-domingos"]
    assert cells["thm-domingos"].startswith("<div style=")
    assert cells["thm-domingos"].endswith("</div>")
    assert f"[Theorem {number}.1]({book.link('domingos', 'thm-domingos')})" in "".join(
        prose(notebook) for notebook in made["student"].values()
    )


def solution_cells(page):
    """The code of the page's solutions, from the source."""
    found, inside = [], False
    for cell in page.notebook.cells:
        if cell.cell_type == "markdown":
            opened, closed = "{solution-start}" in cell.source, "{solution-end}" in cell.source
            inside = opened or (inside and not closed)
        elif inside:
            found.append(cell.source)
    return found


def test_students_get_no_solution_and_instructors_all(made, book):
    for page in book.chapters():
        student, instructor = made["student"][page.file], made["instructor"][page.file]
        solved = solution_cells(page)
        assert solved
        assert not set(solved) & set(code(student)), page.name
        assert set(solved) <= set(code(instructor)), page.name
        assert "Solution of" not in prose(student), page.name
        assert "sol-" not in " ".join(cell.id for cell in student.cells)
        assert prose(instructor).count("#### Solution of") == prose(student).count("### Exercise")
        assert prose(instructor).count("**Marks: ") == prose(student).count("### Exercise")


@pytest.mark.parametrize("name", TWO)
def test_each_exercise_of_a_student_has_a_place_for_its_answer(made, book, name):
    """Either the cell that checks it, which instructors do not need, or an empty one."""
    student = made["student"][book.pages[name].file].cells
    places = [k for k, cell in enumerate(student) if cell.source.startswith("### Exercise")]
    assert len(places) == 5 if name == "domingos" else len(places) >= 5
    for place in places:
        below = student[place + 1]
        assert below.source == editions.ANSWER or "pk.check(" in below.source
    starters = [s for s in code(made["student"][book.pages[name].file]) if "answer = None" in s]
    assert len(starters) >= 3
    instructor = made["instructor"][book.pages[name].file]
    assert not set(starters) & set(code(instructor))
    assert sum("pk.check(" in s for s in code(instructor)) == len(starters)


def test_no_answer_stands_in_a_students_notebook(made, book):
    for name, given in (("domingos", "-1 / 2"), ("momentum", "0.1 / 2**0.5")):
        notebook = made["student"][book.pages[name].file]
        assert not any(given in cell.source for cell in notebook.cells)


def test_readers_find_solutions_folded(made, book):
    cells = made["reader"][book.pages["domingos"].file].cells
    solutions = [cell for cell in cells if cell.source.startswith("#### Solution")]
    assert solutions
    assert all(cell.metadata["jp-MarkdownHeadingCollapsed"] for cell in solutions)
    # A fold ends at the next heading of the same or a higher rank: the next exercise, or section.
    headings = [re.match(r"#+", cell.source)[0] for cell in cells if cell.source.startswith("#")]
    for fold, after in pairwise(headings):
        assert fold != "####" or len(after) < 4


@pytest.mark.parametrize("name", TWO)
def test_the_notebooks_are_valid_and_the_same_in_every_run(made, name):
    again = kit_book.read_book(ROOT)
    page = again.pages[name]
    for edition in editions.EDITIONS:
        text = class_kit.text_of(editions.notebook_of(page, again, edition))
        assert text == class_kit.text_of(made[edition][page.file])
        assert all(not cell.get("outputs") for cell in json.loads(text)["cells"])


def test_an_edition_in_a_folder_and_its_zip(book, tmp_path):
    pages = [book.pages[name] for name in TWO]
    packed = []
    for turn in ("one", "two"):
        folder = tmp_path / turn / "instructor"
        class_kit.write_edition(book, "instructor", folder, pages)
        packed.append(class_kit.zip_folder(folder).read_bytes())
    assert packed[0] == packed[1]
    with zipfile.ZipFile(tmp_path / "one" / "instructor.zip") as file:
        names = file.namelist()
        assert names == sorted(names)
        assert {"instructor/README.md", "instructor/marks.csv"} < set(names)
        rows = file.read("instructor/marks.csv").decode().splitlines()
    assert len(rows) == 1 + sum(len(editions.exercises(page, book)) for page in book.chapters())
    file = book.pages["domingos"].file
    assert f"{file},Exercise 2.1: Compute: A sample without effect,4," in "\n".join(rows)


def test_a_readers_changes_are_kept(book, tmp_path):
    folder, file = tmp_path / "notebooks", book.pages["domingos"].file
    written, kept = class_kit.update_reader(_one(book, "domingos"), folder)
    assert (written, kept) == ([file], [])
    assert class_kit.update_reader(_one(book, "domingos"), folder) == ([], [])
    opened = json.loads((folder / file).read_text())
    opened["metadata"]["language_info"]["version"] = "3.12.1"  # as JupyterLab does at a start
    (folder / file).write_text(json.dumps(opened))
    assert class_kit.update_reader(_one(book, "domingos"), folder) == ([], [])
    opened["cells"][3]["source"] = "mine = 1"
    (folder / file).write_text(json.dumps(opened))
    assert class_kit.update_reader(_one(book, "domingos"), folder) == ([], [file])
    assert json.loads((folder / file).read_text())["cells"][3]["source"] == "mine = 1"


def _one(book, name):
    """The book, of which only one page is written."""
    return kit_book.Book(_Only(book.pages, name), book.targets, book.bibliography)


class _Only(dict):
    """All pages to look up, one to walk over."""

    def __init__(self, pages, name):
        super().__init__(pages)
        self.name = name

    def values(self):
        return [self[self.name]]


def test_marks_follow_what_an_exercise_asks_for(book):
    page = book.pages["domingos"]
    marks = {label: n for label, _, n in editions.exercises(page, book)}
    assert marks["ex-domingos-trapezoid"] == 4
    assert marks["ex-domingos-checkpoints"] == 6
    assert editions.marks_of(book.pages["rank_gap"], "ex-rank-gap-recall") == 2
    with pytest.raises(kit_book.KitError, match="no exercise"):
        editions.marks_of(page, "ex-nowhere")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (":::{prf:theorem} A\n:label: thm-a\nText", "not closed"),
        ("See {prf:ref}`thm-nowhere`.", "no label"),
        ("See [there](#nowhere).", "no label"),
        (":::{unheard-of}\n:::", "no plain form"),
        ("{unheard-of}`x`", "no plain form"),
        (":::{solution} ex-nowhere\n:::", "no exercise"),
    ],
)
def test_what_cannot_be_made_plain_is_refused_by_name(book, source, told):
    with pytest.raises(kit_book.KitError, match=told):
        list(plain.pieces(source, "domingos", book))


def test_code_is_left_as_it_stands(book):
    source = "Write `:::{prf:theorem}` or\n\n```\n:::{exercise}\n[x](domingos.ipynb)\n```\n"
    (piece,) = plain.pieces(source, "domingos", book)
    assert piece.text == source.strip("\n")


def test_an_unknown_edition_is_refused(book):
    with pytest.raises(ValueError, match="edition must be one of"):
        editions.notebook_of(book.pages["domingos"], book, "teacher")


# ---- slides -------------------------------------------------------------------------------------


def figure(words):
    data = {"text/html": "<svg><title>x</title></svg>", "image/png": "AAAA", "text/plain": words}
    return nbformat.v4.new_output("display_data", data=data)


def test_slides_hold_goals_statements_figures_and_summary(book):
    page = kit_book.read_book(ROOT).pages["domingos"]
    code_cells = [cell for cell in page.notebook.cells if cell.cell_type == "code"]
    code_cells[2].outputs = [figure("A curve that falls.")]
    code_cells[-1].outputs = [figure("The figure of a solution.")]
    made = slides.slides_of(page, book)
    text = "\n".join(made)
    assert "2. Domingos" in made[0]
    assert len([s for s in made if 'class="statement"' in s]) == 3
    assert "<figcaption>A curve that falls.</figcaption>" in text
    assert "The figure of a solution" not in text
    assert "What you will be able to do" in text
    assert "<h2>Summary</h2>" in text
    assert r"\(\theta(t)\)" in text
    assert not RAW.search(text)
    assert ".ipynb" not in text


def test_slides_ask_nothing_of_the_network(book, tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "copy_assets", lambda root, target: target.mkdir(parents=True))
    monkeypatch.setattr(slides, "kept_outputs", lambda root, page: None)
    monkeypatch.setattr(book, "chapters", lambda: [book.pages[name] for name in TWO])
    counts = slides.write_slides(ROOT, book, tmp_path / "slides")
    assert set(counts) == set(TWO)
    assert min(counts.values()) >= 5
    for name in (*TWO, "index"):
        text = (tmp_path / "slides" / f"{name}.html").read_text()
        assert not re.search(r'(?:src|href)="(?:https?:)?//', text)
    page = (tmp_path / "slides" / "domingos.html").read_text()
    names = set(re.findall(r'="assets/([\w.-]+)"', page))
    there = {Path(name).name for name in slides.REVEAL} | {"tex-svg.js"}
    assert names <= there | {path.name for path in slides.ASSETS.iterdir()}


# ---- JupyterLab and the places to run -----------------------------------------------------------


def test_settings_are_added_to_those_that_stand_there(tmp_path):
    path = open_lab.settings_file(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text('{"other": {"a": 1}}')
    assert open_lab.write_settings(tmp_path) == path
    told = json.loads(path.read_text())
    assert told["other"] == {"a": 1}
    assert told["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"


def test_jupyterlab_starts_in_the_books_own_state(tmp_path):
    env = open_lab.lab_environment(tmp_path)
    own = [name for name in env if name.startswith(("JUPYTER", "IPYTHONDIR"))]
    assert {"JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTERLAB_SETTINGS_DIR"} <= set(own)
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        assert env[name].startswith(str(tmp_path))
    command = open_lab.lab_command(tmp_path, "00-start_here.ipynb")
    assert f"--ServerApp.root_dir={tmp_path}" in command
    assert "--LabApp.extension_manager=readonly" in command


def test_what_a_server_needs_has_the_books_versions():
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / ".binder/requirements.txt").read_text(), re.M)
    known = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.M))
    assert {"torch", "jupyterlab", "nbformat", "PyYAML"} <= {name for name, _ in pins}
    for name, version in pins:
        assert known[name] == version, name
    binder = (ROOT / ".binder/requirements.txt").read_text()
    other = re.findall(r"^-c (\S+)|^-e (\S+)", binder, re.M)
    assert other == [("../constraints.txt", ""), ("", ".[lab]")]
    assert (ROOT / "constraints.txt").exists()


def test_the_files_of_binder_and_codespaces_name_files_that_exist():
    assert re.fullmatch(r"python-3\.\d+\n", (ROOT / ".binder/runtime.txt").read_text())
    script = (ROOT / ".binder/postBuild").read_text()
    assert script.startswith("#!/bin/bash\n")
    assert (ROOT / ".binder/postBuild").stat().st_mode & 0o111
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    for text in (script, container["postCreateCommand"]):
        for path in re.findall(r"[.\w]+/[\w./]+", text):
            assert path in ("bin/bash",) or (ROOT / path).exists(), path
    (first,) = container["customizations"]["codespaces"]["openFiles"]
    assert first == f"notebooks/00-{kit_book.START}.ipynb"


def test_launch_buttons_only_where_a_repository_is_configured(book):
    assert launch.repository({}) is None
    assert launch.repository({"repository": {"url": ""}}) is None
    where = launch.repository({"repository": {"url": "https://github.com/a/b.git"}})
    assert where == ("a", "b", "main")
    with pytest.raises(ValueError, match=r"repository\.url must be"):
        launch.repository({"repository": {"url": "https://example.org/a/b"}})
    cell = nbformat.v4.new_markdown_cell("# Title\n\nText.")
    notebook = launch.with_buttons(nbformat.v4.new_notebook(cells=[cell]), where, "02-x.ipynb")
    source = notebook.cells[0].source
    assert source.startswith("# Title\n\n<p class=")
    assert source.endswith("\n\nText.")
    assert source.count("<a ") == 3
    assert "mybinder.org/v2/gh/a/b/main?urlpath=lab%2Ftree%2Fnotebooks%2F02-x.ipynb" in source
    assert "colab.research.google.com/github/a/b/blob/class/02-x.ipynb" in source
    assert "github.com/a/b@main" in launch.install_cell(where).source
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf8"))
    assert launch.repository(config) is None or launch.repository(config)[0]


def test_the_teachers_page_points_to_sections_that_exist():
    from docutils.nodes import make_id

    text = (ROOT / "book" / "teaching.md").read_text(encoding="utf8")
    links = re.findall(r'href="(\w+)\.html#([\w-]+)"', text)
    assert len(links) > 8
    for page, anchor in links:
        cells = json.loads((ROOT / "book" / f"{page}.ipynb").read_text(encoding="utf8"))["cells"]
        words = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        assert anchor in [make_id(h) for h in re.findall(r"^#+ +(.+)$", words, re.M)], anchor


def test_the_sessions_of_the_teachers_page_last_ninety_minutes():
    text = (ROOT / "book" / "teaching.md").read_text(encoding="utf8")
    six, twelve = (part.split("## ")[0] for part in text.split("sessions of ninety minutes")[1:])
    for part, sessions in ((six, 6), (twelve, 12)):
        rows = re.findall(r"^\| (\d+) \|(.*)$", part, re.M)
        assert [int(number) for number, _ in rows] == list(range(1, sessions + 1))
        for number, row in rows:
            words = re.sub(r"\]\([^)]*\)", "]", row).split("|")[1:]
            minutes = [int(m) for w in words for m in re.findall(r"(?<![\w.])(\d\d)\b", w)]
            assert sum(minutes) == 90, f"session {number}: {minutes}"
