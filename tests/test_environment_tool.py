"""The environment is made once, made anew where it cannot work, and refused with the remedy."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import environment  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project that needs nothing but itself."""
    root = tmp_path / "first"
    root.mkdir()
    (root / "requirements.txt").write_text("-e .\n")
    (root / "constraints.txt").write_text("")
    (root / "pyproject.toml").write_text("")
    for name in environment.INTEGRATIONS:
        (root / name).write_text("")
    return root


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where pip would have been run; what it does is not tested here."""
    made: list[Path] = []
    monkeypatch.setattr(environment, "install", lambda root, venv, **more: made.append(venv))
    return made


def test_it_is_made_once_and_again_when_a_requirement_changes(folder, installs) -> None:
    venv = folder / ".venv"
    assert environment.ensure(folder, venv)
    assert environment.works(environment.python_of(venv))
    assert not environment.ensure(folder, venv)
    (folder / "constraints.txt").write_text("numpy==2\n")
    assert environment.ensure(folder, venv)
    assert len(installs) == 2


def test_one_that_failed_half_way_is_made_anew(folder, installs, capsys) -> None:
    venv = folder / ".venv"
    environment.ensure(folder, venv)
    for pip in venv.glob("lib/python*/site-packages/pip"):
        shutil.rmtree(pip)  # what Debian leaves without python3-venv
    (venv / ".installed").unlink()
    assert not environment.works(environment.python_of(venv))
    assert environment.ensure(folder, venv)
    assert environment.works(environment.python_of(venv))
    assert "does not work; it is made anew" in capsys.readouterr().out


def test_one_that_was_moved_is_made_anew(folder, installs, capsys) -> None:
    environment.ensure(folder, folder / ".venv")
    moved = folder.with_name("second")
    folder.rename(moved)
    assert environment.ensure(moved, moved / ".venv")
    assert "belongs to another folder; it is made anew" in capsys.readouterr().out
    assert installs == [folder / ".venv", moved / ".venv"]


def test_without_venv_it_says_what_to_install_and_leaves_nothing(
    folder, installs, monkeypatch
) -> None:
    real = subprocess.run

    def no_ensurepip(command, **options):
        if "venv" in command:
            (folder / ".venv" / "bin").mkdir(parents=True)
            return subprocess.CompletedProcess(command, 1, "ensurepip is not available", "")
        return real(command, **options)

    monkeypatch.setattr(environment.subprocess, "run", no_ensurepip)
    with pytest.raises(environment.NoEnvironment, match=r"apt install python3\.\d+-venv"):
        environment.ensure(folder, folder / ".venv")
    assert not (folder / ".venv").exists()
    assert not installs


def test_an_old_python_is_refused(folder, installs, monkeypatch) -> None:
    monkeypatch.setattr(environment.sys, "version_info", (3, 10, 4))
    with pytest.raises(environment.NoEnvironment, match=r"3\.11 or newer is needed, .* is 3\.10"):
        environment.ensure(folder, folder / ".venv")


def test_what_pip_says_goes_to_a_log_and_its_failure_is_told(folder) -> None:
    (folder / "requirements.txt").write_text("./nowhere\n")
    with pytest.raises(environment.NoEnvironment, match=r"(?s)pip failed; .*install\.log.*nowhere"):
        environment.ensure(folder, folder / ".venv")
    assert "nowhere" in (folder / ".venv" / "install.log").read_text()
    assert not (folder / ".venv" / ".installed").exists()


def test_the_libraries_of_the_integrations_come_once_and_on_their_own(folder, installs) -> None:
    venv = folder / ".venv"
    environment.ensure(folder, venv)
    assert environment.ensure_integrations(folder, venv)
    assert not environment.ensure_integrations(folder, venv)
    (folder / environment.INTEGRATIONS[1]).write_text("xxhash==4\n")
    assert not environment.ensure(folder, venv)  # the book needs nothing anew
    assert environment.ensure_integrations(folder, venv)
    (folder / "constraints.txt").write_text("numpy==2\n")
    assert environment.ensure(folder, venv)
    assert environment.ensure_integrations(folder, venv)


def test_where_they_cannot_be_had_it_says_so_and_that_the_book_can(folder) -> None:
    environment.create(folder / ".venv")
    (folder / environment.INTEGRATIONS[0]).write_text("./nowhere\n")
    told = r"(?s)install-integrations\.log.*nowhere.*`make book` works without them"
    with pytest.raises(environment.NoEnvironment, match=told):
        environment.ensure_integrations(folder, folder / ".venv")
    assert not (folder / ".venv" / environment.INTEGRATIONS_STAMP).exists()


def test_their_pins_are_resolved_and_agree_with_the_book() -> None:
    def pins(name: str) -> dict[str, str]:
        lines = (ROOT / name).read_text().lower().split("\n")
        return dict(line.split("==") for line in lines if line and line[0] != "#")

    direct, added = (pins(name) for name in environment.INTEGRATIONS)
    assert direct.items() <= added.items()
    assert not added.keys() & pins("constraints.txt").keys()
