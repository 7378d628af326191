"""Write the README's picture: the figure of the landing page, as the last build drew it.

Run after ``make book``:  .venv/bin/python tools/readme_picture.py
"""

import base64
import sys
from pathlib import Path

from build_book import ROOT
from execute import executed_copy

TARGET = ROOT / "book" / "_static" / "one-picture.png"


def main() -> int:
    notebook = executed_copy(ROOT, "book/index", ROOT / "_build" / "executed")
    pictures = [
        output.data["image/png"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    if len(pictures) != 1:
        print(f"expected one picture on the landing page, found {len(pictures)}", file=sys.stderr)
        return 1
    Path(TARGET).write_bytes(base64.b64decode(pictures[0]))
    print(f"wrote {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
