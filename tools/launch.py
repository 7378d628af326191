"""Launch buttons of the chapters, where ``_config.yml`` names a repository, and only there.

    repository:
      url: https://github.com/OWNER/NAME
      branch: main

Binder and Codespaces open the notebooks that ``.binder/postBuild`` writes; Colab opens the student
notebooks from the branch ``class`` (``book/run_it.md`` says how they come there).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

import nbformat

GITHUB = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")
KIT_BRANCH = "class"


def repository(config: Mapping) -> tuple[str, str, str] | None:
    """``(owner, name, branch)`` of the configured repository; None where there is none.

    Raises ValueError for an address that is not one of GitHub.
    """
    told = config.get("repository") or {}
    if not told.get("url"):
        return None
    found = GITHUB.fullmatch(told["url"])
    if found is None:
        raise ValueError(
            f"repository.url must be https://github.com/OWNER/NAME, got {told['url']!r}; "
            "leave it out to have no launch buttons"
        )
    return found[1], found[2], told.get("branch") or "main"


def addresses(where: tuple[str, str, str], file: str) -> dict[str, str]:
    """``{"Binder": address, ...}`` of one notebook of the kit, such as ``02-domingos.ipynb``."""
    owner, name, branch = where
    tree = quote(f"lab/tree/notebooks/{file}", safe="")
    colab = "https://colab.research.google.com/github"
    return {
        "Binder": f"https://mybinder.org/v2/gh/{owner}/{name}/{branch}?urlpath={tree}",
        "Colab": f"{colab}/{owner}/{name}/blob/{KIT_BRANCH}/{file}",
        "Codespaces": f"https://codespaces.new/{owner}/{name}?ref={branch}",
    }


def with_buttons(
    notebook: nbformat.NotebookNode, where: tuple[str, str, str], file: str
) -> nbformat.NotebookNode:
    """The notebook with the buttons below its title."""
    links = " ".join(
        f'<a class="pk-launch" href="{address}">{name}</a>'
        for name, address in addresses(where, file).items()
    )
    line = f'<p class="pk-launches">Run it: {links}</p>'
    first = notebook.cells[0]
    title, _, rest = first.source.partition("\n")
    first.source = f"{title}\n\n{line}\n{rest}"
    return notebook


def install_cell(where: tuple[str, str, str]) -> nbformat.NotebookNode:
    """The cell by which a machine without the package, such as Colab's, gets it."""
    owner, name, branch = where
    source = (
        "# Only where the package is missing, as on Colab.\n"
        "import importlib.util\n\n"
        'if importlib.util.find_spec("pkbook") is None:\n'
        f'    %pip install -q "pkbook[lab] @ git+https://github.com/{owner}/{name}@{branch}"'
    )
    return nbformat.v4.new_code_cell(source, id="install")
