"""Read a notebook as a linter does: cells, sections, directives, calls and plain prose."""

import ast
import re
from collections.abc import Iterator

Cells = list[tuple[int, str, str, dict]]  # number from one, type, source, metadata

FENCED = re.compile(r"^(`{3,}|~{3,})[^\n]*\n.*?^\1[ \t]*$", re.M | re.S)
DIRECTIVE = re.compile(r"^:{3,}\{([\w:-]+)\}[ \t]*(.*)\n((?::[\w-]+:.*\n?)*)", re.M)


def cells_of(notebook: dict) -> Cells:
    return [
        (number, cell["cell_type"], "".join(cell["source"]), cell.get("metadata", {}))
        for number, cell in enumerate(notebook["cells"], start=1)
    ]


def sections(cells: Cells) -> Iterator[tuple[int, str, str, str, dict]]:
    """Yield (number, type, source, title of the ``##`` section the cell ends in, metadata)."""
    title = ""
    for number, kind, source, meta in cells:
        if kind == "markdown":
            for heading in re.findall(r"^## +(.+?) *$", FENCED.sub("", source), re.M):
                title = heading
        yield number, kind, source, title, meta


def section_text(cells: Cells, title: str) -> str:
    """Return the markdown that stands under the ``##`` heading ``title``."""
    found = re.search(rf"^## {re.escape(title)} *$(.*?)(?=^## |\Z)", markdown(cells), re.M | re.S)
    return found[1] if found else ""


def markdown(cells: Cells) -> str:
    """Return all markdown without fenced code, so that a # comment is no heading."""
    return "\n".join(FENCED.sub("", source) for _, kind, source, _ in cells if kind == "markdown")


def directives(source: str) -> Iterator[tuple[str, str, dict]]:
    """Yield (name, argument, options) of each colon-fenced directive, in order."""
    for name, argument, options in DIRECTIVE.findall(FENCED.sub("", source) + "\n"):
        pairs = re.findall(r"^:([\w-]+):[ \t]*(.*)$", options, re.M)
        yield name, argument.strip(), {key: value.strip() for key, value in pairs}


def called(node: ast.AST) -> tuple[str, str]:
    """Return (owner, name) of a call: ``pk.plots.show(...)`` gives ("plots", "show")."""
    if not isinstance(node, ast.Call):
        return "", ""
    function = node.func
    if isinstance(function, ast.Name):
        return "", function.id
    if not isinstance(function, ast.Attribute):
        return "", ""
    owner = function.value
    return getattr(owner, "attr", getattr(owner, "id", "")), function.attr


def outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk everything that runs with the cell: not the bodies of the functions it defines."""
    for child in ast.iter_child_nodes(tree):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


def prose(source: str) -> str:
    """Return markdown text without code, mathematics, links, directive lines and comments."""
    for pattern in (
        FENCED,
        re.compile(r"`+[^`]*`+"),
        re.compile(r"\$\$.*?\$\$", re.S),
        re.compile(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.S),
        re.compile(r"(?<!\\)\$[^$]*\$"),
        re.compile(r"<!--.*?-->", re.S),
        re.compile(r"<[^>]*>"),
        re.compile(r"\]\([^)]*\)"),
        re.compile(r"https?://\S+"),
        re.compile(r"^:[\w-]+:.*$", re.M),
    ):
        source = pattern.sub(" ", source)
    return source


def inside_solution(source: str, opened: bool) -> str:
    """Return the part of a markdown cell that stands between the gates of a solution."""
    inside = ""
    for piece in re.split(r"(\{solution-(?:start|end)\})", source):
        if piece in {"{solution-start}", "{solution-end}"}:
            opened = piece == "{solution-start}"
        elif opened:
            inside += piece
    return inside


def code_trees(cells: Cells) -> Iterator[tuple[int, ast.AST, str]]:
    """Yield (number, syntax tree, section) of the code cells that are plain Python."""
    for number, kind, source, title, _ in sections(cells):
        if kind == "code":
            try:
                yield number, ast.parse(source), title
            except SyntaxError:
                continue  # a rule of its own reports it
