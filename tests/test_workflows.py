"""The workflows are valid, call commands that exist, and cover what the README promises."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))


def valid(path):
    """Whether GitHub's own schema accepts a workflow, and what it says if not."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    done = subprocess.run(
        [*command, "vendor.github-workflows", str(path)], capture_output=True, text=True
    )
    return done.returncode == 0, done.stdout + done.stderr


def read(name):
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf8"))


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_the_three_workflows_are_here():
    assert [path.name for path in WORKFLOWS] == ["book.yml", "test.yml", "weekly.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_follows_the_schema(path):
    held, told = valid(path)
    assert held, told


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("runs-on: ubuntu-latest", "run-on: ubuntu-latest"), ("needs: build", "needs: {build: 1}")],
)
def test_the_schema_finds_a_fault(tmp_path, right, wrong):
    text = (FOLDER / "book.yml").read_text(encoding="utf8")
    assert right in text
    broken = tmp_path / "book.yml"
    broken.write_text(text.replace(right, wrong, 1), encoding="utf8")
    assert not valid(broken)[0]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_its_commands_exist(path):
    made = set(
        re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf8"), re.MULTILINE)
    )
    commands = [
        step["run"] for step in steps(yaml.safe_load(path.read_text("utf8"))) if "run" in step
    ]
    assert commands
    for command in commands:
        done = subprocess.run([shutil.which("bash"), "-n"], input=command, text=True)
        assert done.returncode == 0, command
        assert set(re.findall(r"^make (\w+)", command, re.MULTILINE)) <= made


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_names_its_version_and_every_job_its_limit(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf8"))
    for step in steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_what_a_job_needs_exists():
    for path in WORKFLOWS:
        jobs = yaml.safe_load(path.read_text(encoding="utf8"))["jobs"]
        assert {job["needs"] for job in jobs.values() if "needs" in job} <= set(jobs)


def test_the_systems_and_versions_that_are_promised():
    jobs = read("test.yml")["jobs"]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert jobs["linux"]["strategy"]["matrix"]["python"][0] == oldest
    assert jobs["macos"]["runs-on"].startswith("macos-")
    lowest = " ".join(step.get("run", "") for step in jobs["lowest"]["steps"])
    assert "--resolution lowest-direct" in lowest


def test_the_book_is_built_published_from_main_and_kept():
    jobs = read("book.yml")["jobs"]
    used = {step.get("uses", "").split("@")[0] for step in steps({"jobs": jobs})}
    assert {
        "actions/upload-artifact",
        "actions/upload-pages-artifact",
        "actions/deploy-pages",
    } <= used
    assert "refs/heads/main" in jobs["publish"]["if"]
    assert any(step.get("run", "").startswith("make book") for step in jobs["build"]["steps"])


def test_the_weekly_run_takes_the_newest_torch():
    workflow = read("weekly.yml")
    (job,) = workflow["jobs"].values()
    commands = [step.get("run", "") for step in job["steps"]]
    assert any("--upgrade torch" in command for command in commands)
    assert commands[-1].startswith("make test")
    assert "schedule" in workflow[True]  # YAML reads the key `on` as a truth value
