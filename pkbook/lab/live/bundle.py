"""From modules that import each other to one script that works from a folder.

Browsers refuse ``import`` on pages opened from a disk, so each module becomes a function that is
given what it needs.  No tool of others is used: the modules keep to a few forms of ``import`` and
``export``, and whatever else looks like one is refused.
"""

import hashlib
import json
import posixpath
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

SHARED = ("core.js", "frame.js")  # what all explorers use: one script, sent once a page

_IMPORT = re.compile(r'^import \{([^}]*)\} from "(\.[^"]+)";$', re.MULTILINE)
_PASSED_ON = re.compile(r'^export \{([^}]*)\} from "(\.[^"]+)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:function|class|const) (\w+))", re.MULTILINE)
_ANY = re.compile(r"^\s*(?:import|export)\b.*|\bimport\(.*", re.MULTILINE)
_SEVERAL = re.compile(r"^export const [^;\n]*, \w+ = .*", re.MULTILINE)
_COMMENT = re.compile(r"^\s*(?:/\*\*.*?\*/|//[^\n]*)\s*?$", re.MULTILINE | re.DOTALL)


def source(name: str) -> str:
    """The text of a file of this folder, ``core/network.js`` for example."""
    return resources.files("pkbook.lab.live").joinpath(name).read_text(encoding="utf-8")


def needed(name: str) -> list[str]:
    """A module and all that it imports, each after what it needs itself."""
    found: list[str] = []

    def visit(module: str, above: tuple[str, ...]) -> None:
        if module in above:
            raise ValueError(f"modules must not import in a circle, got {[*above, module]}")
        text = source(module)
        for pattern in (_IMPORT, _PASSED_ON):
            for match in pattern.finditer(text):
                visit(_beside(module, match[2]), (*above, module))
        if module not in found:
            found.append(module)

    visit(name, ())
    return found


def _beside(module: str, relative: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(module), relative))


def as_function(name: str) -> str:
    """One module as ``define(name, (exports, need) => {...})``, without its comments.

    Raises ValueError for forms of import and export that are not understood.
    """

    def taken(match: re.Match) -> str:
        names = re.sub(r"(\w+)\s+as\s+(\w+)", r"\1: \2", match[1])
        return f'const {{{names}}} = need("{_beside(name, match[2])}");'

    def passed_on(match: re.Match) -> str:
        names = ", ".join(re.findall(r"\w+", match[1]))
        return f'{{ const {{{names}}} = need("{_beside(name, match[2])}"); ' + (
            f"Object.assign(exports, {{{names}}}); }}"
        )

    text = _COMMENT.sub("", source(name))
    several = _SEVERAL.search(text)
    exported = [match[1] for match in _EXPORT.finditer(text)]
    text = _EXPORT.sub("", _PASSED_ON.sub(passed_on, _IMPORT.sub(taken, text)))
    if odd := several or _ANY.search(text):
        raise ValueError(
            f'{name}: imports must read import {{ a, b }} from "./c.js"; and exports must be one '
            f"function, class or const each, got {odd[0].strip()!r}"
        )
    lines = (line.strip() for line in text.splitlines())
    body = "\n".join(line for line in lines if line)
    tail = f"\nObject.assign(exports, {{{', '.join(exported)}}});" if exported else ""
    return f'define("{name}", (exports, need) => {{\n{body}{tail}\n}});'


@cache
def version() -> str:
    """Names the state of the explorers' files: outputs of different states share nothing."""
    folder = resources.files("pkbook.lab.live")
    files = sorted(path.name for path in folder.iterdir() if path.name.endswith((".js", ".css")))
    files.remove("loader.js")
    names = dict.fromkeys(module for name in files for module in _whole(name))
    digest = hashlib.sha256()
    for name in ("loader.js", *names):
        digest.update(source(name).encode())
    return digest.hexdigest()[:10]


def _whole(name: str) -> list[str]:
    return needed(name) if name.endswith(".js") else [name]


@cache
def shared_script() -> str:
    """Loader, style, core and frame."""
    modules = dict.fromkeys(module for name in SHARED for module in needed(name))
    style = re.sub(r"\s*\n\s*", " ", re.sub(r"/\*.*?\*/", "", source("live.css"), flags=re.DOTALL))
    loader = _COMMENT.sub("", source("loader.js"))
    loader = loader.replace("VERSION", json.dumps(version()).replace('"', "'"))
    loader = loader.replace("= STYLE", f"= {json.dumps(style)}")
    return _checked(f"{loader}\n{_body(list(modules))}")


@cache
def own_script(explorer: str) -> str:
    """What an explorer has beyond the shared modules, and its start."""
    shared = {module for name in SHARED for module in needed(name)}
    own = [module for module in needed(f"{explorer}.js") if module not in shared]
    return _checked(f"{_body(own)}\npkLive['{version()}'].start();")


def data_script(explorer: str, data: Mapping[str, object]) -> str:
    """What an explorer computes with, as a module that the loader hands to its ``start``."""
    text = json.dumps(dict(data), separators=(",", ":"))
    maker = f"(exports) => {{ Object.assign(exports, {text}); }}"
    return _checked(f"pkLive['{version()}'].define('{explorer}.data', {maker});")


def _body(modules: list[str]) -> str:
    functions = "\n".join(as_function(module) for module in modules)
    start = f"'use strict';\nconst {{define}} = pkLive['{version()}'];"
    return f"(() => {{\n{start}\n{functions}\n}})();"


def _checked(script: str) -> str:
    if re.search(r"</script|<!--", script, flags=re.IGNORECASE):
        raise ValueError("scripts must not hold </script or <!--, which end them on a page")
    return script
