"""`lab study` as a reader uses it: what it prints, writes and refuses."""

import json
import subprocess
import sys
from dataclasses import asdict
from io import StringIO

import pytest
from patience import PROGRAM
from rich.console import Console

import lab
from lab.errors import InputError, OutputError
from lab.study import commands, scheduling
from lab.study.plans import Study

OWN = '[factors]\npooling = ["max"]\nhead = ["maximum"]\ndigits = [64, 9000]\nepochs = [1]\nwidth = [2]\n'


@pytest.fixture
def run(tmp_path):
    def program(*arguments):
        command = [sys.executable, "-m", "lab.cli", "study", *arguments]
        command[1:3] = ["-c", "from lab.cli import main; main()"]
        env = {"PATH": "", "LAB_DATA": str(tmp_path / "data"), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PROGRAM)

    return program


def test_a_study_of_ones_own_writes_its_files_and_reports_what_failed(run, tmp_path):
    (tmp_path / "own.toml").write_text(OWN, encoding="utf-8")
    ended = run("own.toml", "--seeds", "1", "--jobs", "1", "--data", "embedded", "--out", "found")
    assert ended.returncode == 0, ended.stderr
    assert "1 of 2 runs failed" in ended.stdout
    assert "digits must be at most 8,000" in ended.stdout
    files = {path.name for path in (tmp_path / "found").iterdir()}
    assert files == {"runs.csv", "study.json", "ranking.png", "ranking.svg", "maps.png", "maps.svg"}
    assert len(json.loads((tmp_path / "found" / "study.json").read_text(encoding="utf-8"))["records"]) == 2


def test_the_studies_are_listed(capsys):
    commands.study(listed=True)
    assert "remedies: What helps against shifts" in capsys.readouterr().out


def test_no_name_is_refused():
    with pytest.raises(InputError, match="--list names those there are"):
        commands.study()


@pytest.mark.parametrize("text", ["", "[]", '{"study": {"name": "other", "factors": {}}}'], ids=["no", "list", "other"])
def test_a_folder_of_another_study_is_refused_and_left_as_it_is(tmp_path, tiny, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(
        scheduling, "run_study", lambda *_, **__: pytest.fail("trained before the folder was looked at")
    )
    (tmp_path / "tiny.toml").write_text("[factors]\nepochs = [1]\n", encoding="utf-8")
    for call in (lambda: commands.check_folder(tmp_path, tiny), lambda: commands.study("tiny.toml", out=tmp_path)):
        with pytest.raises(OutputError, match="not overwritten"):
            call()
    assert (tmp_path / "study.json").read_text(encoding="utf-8") == text


def test_the_same_study_may_go_into_its_folder_again(tmp_path, done):
    commands.write(tmp_path, done)
    commands.check_folder(tmp_path, Study("tiny", "again, with more seeds", 20, done.study.factors))


def test_no_job_is_refused(tiny, embedded):
    with pytest.raises(InputError, match="jobs must be at least 1, or -1"):
        lab.run_study(tiny, embedded, jobs=0)


def test_the_table_fits_a_terminal_of_80_columns_whole(done):
    lines = printed(done.table(), 80)
    found = done.interval("kappa", **asdict(done.study.settings[0]))
    row = next(i for i, line in enumerate(lines) if line.startswith("│ max"))
    assert f"{found.mean:.2f}" in lines[row]
    assert f"{found.low:.2f}–{found.high:.2f}" in lines[row + 1]
    assert "…" not in "".join(lines)
    assert "digits 64, epochs 1, width 2" in " ".join(lines)  # what does not vary stands below


def printed(table, width):
    text = StringIO()
    Console(file=text, width=width).print(table)
    return text.getvalue().splitlines()
