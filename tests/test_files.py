"""Files are written whole or not at all, and nothing half done stays, however a process ends."""

import json
import os
import signal
import subprocess
import sys

import pytest

from lab.errors import OutputError
from lab.files import finite, html_table, staged_output, to_json

KILLED = """
import os, signal, sys
from pathlib import Path
from lab.files import staged_output
with staged_output(Path(sys.argv[1])) as stage:
    (stage / "half").write_text("half")
    {end}
"""
WRITING = KILLED.format(end="print(stage, flush=True); sys.stdin.read()")


def run(code, folder):
    return subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    (tmp_path / "mine").write_text("mine")
    assert run(KILLED.format(end="os.kill(os.getpid(), signal.SIGKILL)"), tmp_path).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    with staged_output(tmp_path) as stage:
        assert sorted(path.name for path in tmp_path.iterdir()) == [stage.name, "mine"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    (tmp_path / ".writing-old").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", WRITING, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        theirs = other.stdout.readline().strip()
        (tmp_path / ".writing-new").mkdir()  # left by a third one, that both must leave: they cannot tell
        with staged_output(tmp_path) as stage:
            assert os.listdir(theirs) == ["half"]
            (stage / "ours").write_text("whole")
        assert os.listdir(theirs) == ["half"]
        other.communicate("")
    assert other.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".writing-new", "half", "ours"]
    with staged_output(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "ours"]


def test_two_writers_in_one_process_do_not_wait_for_each_other(tmp_path):
    with staged_output(tmp_path) as first, staged_output(tmp_path) as second:
        (first / "a").write_text("a")
        (second / "b").write_text("b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="the files cannot be written to"), staged_output(tmp_path / "file" / "out"):
        pytest.fail("the body ran")


def test_a_report_replaces_an_older_one_only_when_it_is_whole(tmp_path):
    (tmp_path / "evidence.json").write_text("old")
    (tmp_path / "notes.txt").write_text("the user's own")
    with pytest.raises(KeyboardInterrupt), staged_output(tmp_path) as stage:  # noqa: PT012  # it raises at exit
        (stage / "evidence.json").write_text("half")
        raise KeyboardInterrupt
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "evidence.json": "old",
        "notes.txt": "the user's own",
    }
    with staged_output(tmp_path) as stage:
        (stage / "evidence.json").write_text("new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "evidence.json": "new",
        "notes.txt": "the user's own",
    }


def test_an_output_that_is_a_file_is_refused_before_the_work_starts(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(OutputError, match="the files cannot be written to"), staged_output(path):
        pytest.fail("the body ran")


def test_an_error_of_the_work_itself_is_not_taken_for_one_of_the_output(tmp_path):
    with pytest.raises(FileNotFoundError), staged_output(tmp_path):
        raise FileNotFoundError("something else")


def test_a_folder_in_the_place_of_a_file_is_refused_and_nothing_is_replaced(tmp_path):
    (tmp_path / "evidence.json").write_text("old")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputError, match=r"report\.html is a folder"), staged_output(tmp_path) as stage:  # noqa: PT012  # it raises at exit
        for name in ("evidence.json", "report.html"):
            (stage / name).write_text("new")
    assert (tmp_path / "evidence.json").read_text() == "old"


@pytest.mark.parametrize(("value", "held"), [(0.5, 0.5), (float("nan"), "nan"), (float("-inf"), "-inf")])
def test_json_holds_what_it_has_no_number_for_as_text(value, held):
    assert json.loads(to_json({"value": finite(value)})) == {"value": held}


def test_json_refuses_a_nan_that_was_not_made_text():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"value": float("nan")})


def test_every_cell_of_a_table_is_escaped():
    text = html_table(["a < b", "c"], [["<script>", "&"], ['"', "d"]])
    head = '<table><thead><tr><th scope="col">a &lt; b</th><th scope="col">c</th></tr></thead>'
    rows = "<tr><td>&lt;script&gt;</td><td>&amp;</td></tr><tr><td>&#34;</td><td>d</td></tr>"
    assert text == f"{head}<tbody>{rows}</tbody></table>"
