"""What the README promises is true: its example runs, its paths exist, its dependencies are all."""

import contextlib
import io
import re
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf8")


def test_the_first_commands_are_targets_of_the_makefile():
    commands = re.findall(r"^make (\w+)", README, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert commands[:2] == ["book", "test"]
    for command in {*commands, *re.findall(r"`make (\w+)`", README)}:
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


def test_the_example_runs_and_its_sum_closes():
    code, *others = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for other in others:  # parts of a reader's program
        compile(other, "README.md", "exec")
    lines = [line for line in code.splitlines() if line.strip() and "import" not in line]
    assert len(lines) <= 10
    names = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    assert names["told"].completeness.max() < 2e-3
    assert printed.getvalue().startswith("tensor(")
    assert torch.equal(names["told"].top(5)[0], names["samples"])


def test_every_direct_dependency_has_its_reason():
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    table = README.split("## Dependencies")[1].split("## Cite")[0]
    reasons = {n.strip() for row in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
               for n in row.split(",")}  # fmt: skip
    missing = {name for name in pinned if name not in reasons}
    assert not missing
    assert {n for n in reasons if "(npm)" not in n and n not in {"package", "---"}} == set(pinned)


def test_every_pin_is_part_of_the_resolution():
    lines = (ROOT / "constraints.txt").read_text().lower().split()
    pinned = re.findall(r"^\S+==\S+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert {p.lower() for p in pinned} <= set(lines)


def test_named_files_exist():
    names = re.findall(r"`([\w./-]+\.(?:md|txt|toml|cff|yml|png))`|\]\((book/[^)]+)\)", README)
    for name in filter(None, (part for pair in names for part in pair)):
        assert (ROOT / name).exists(), name
