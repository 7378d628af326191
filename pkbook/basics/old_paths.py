"""Modules under the paths that they had before, and that notebooks and READMEs write.

``pkbook.data`` is the module ``pkbook.problems.data``: the same object, not a second copy of it, so
that its classes are the same classes.
"""

import importlib
import importlib.util
import sys
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

from pkbook.basics.extras import needs_lab

PATHS = {
    "pkbook.claims": "pkbook.lab.claims",
    "pkbook.data": "pkbook.problems.data",
    "pkbook.diagnostics": "pkbook.function_space.diagnostics",
    "pkbook.experiments": "pkbook.lab.experiments",
    "pkbook.explorers": "pkbook.lab.explorers",
    "pkbook.gram": "pkbook.kernels.command",
    "pkbook.losses": "pkbook.problems.losses",
    "pkbook.models": "pkbook.problems.models",
    "pkbook.plots": "pkbook.lab.plots",
}


def present(name: str) -> str | None:
    """Where a module of an old path is now; None for any other.

    >>> present("pkbook.data.glyphs"), present("pkbook.database")
    ('pkbook.problems.data.glyphs', None)
    """
    head = ".".join(name.split(".")[:2])
    return PATHS[head] + name[len(head) :] if head in PATHS else None


class _Same(InspectLoader):
    """Loads a module under a second name, which is none: it gives the module itself."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        with needs_lab(spec.name):
            self.module = importlib.import_module(str(present(spec.name)))
        self.own = self.module.__spec__
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own  # the import system has written the old name there

    def _inspected(self, fullname: str) -> tuple[InspectLoader, str]:
        now = str(present(fullname))
        found = importlib.util.find_spec(now)
        if found is None or not isinstance(found.loader, InspectLoader):
            raise ImportError(f"no module named {now!r}", name=fullname)
        return found.loader, now

    def get_source(self, fullname: str) -> str | None:
        loader, now = self._inspected(fullname)
        return loader.get_source(now)

    def get_code(self, fullname: str) -> CodeType | None:  # for python -m
        loader, now = self._inspected(fullname)
        return loader.get_code(now)

    def is_package(self, fullname: str) -> bool:
        loader, now = self._inspected(fullname)
        return loader.is_package(now)


class _OldPaths(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None):
        now = present(fullname)
        if now is None or importlib.util.find_spec(now) is None:
            return None
        return importlib.util.spec_from_loader(fullname, _Same())


def install() -> None:
    """Let the old paths be imported; once, however often it is called."""
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OldPaths())
