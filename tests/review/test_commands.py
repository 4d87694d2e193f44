"""`lab review` as a lecturer meets it: files of every kind, its streams, its exit codes, and a start that goes on."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import PROGRAM, heeds_interrupts

from lab.review import commands
from lab.review.running import Outcome

RIGHT = "right.py"
FEEDBACK = {"subject": "", "did": [], "seen": ["it"], "unseen": [], "texts": {}}
TASKS = ("network", "training", "pairs", "measure", "conclusion")


def passed(task, *mistakes):
    return FEEDBACK | {"task": task, "passed": not mistakes, "mistakes": [*mistakes], "did": ["so"] * len(mistakes)}


@pytest.fixture
def ran(monkeypatch):
    """Which paths are run; none really is, and what comes of each is said by its text."""
    paths = []

    def run(path, adapter, seconds, shared, stop):
        paths.append((path, adapter, seconds))
        text = path.read_text(encoding="utf-8")
        error = "line 1: ValueError" if "raise" in text else None
        return Outcome(error, [], 0.5, [passed(task, *(["unmatched"] if "wrong" in text else [])) for task in TASKS])

    monkeypatch.setattr(commands, "run_submission", run)
    monkeypatch.setattr(commands, "_prepare", lambda shared: "MNIST-10k")
    return paths


@pytest.fixture
def review(tmp_path, monkeypatch, capsys, unchecked):
    """The command line in this process: its exit code and its two streams."""
    from lab import cli

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lab", "review", *map(str, arguments)])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            code = cli.main() or 0
        except SystemExit as ended:
            code = ended.code
        finally:
            signal.signal(signal.SIGTERM, handler)
        return code, *capsys.readouterr()

    return call


def hand_in(**texts):
    """Files of a class below `class`."""
    for name, text in texts.items():
        write(f"class/{name}.py", text)
    return Path("class")


def write(name, text=""):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_json_is_what_was_promised_and_nothing_else(review, ran):
    code, out, err = review(hand_in(ada="x", bob="wrong"), "--json")
    first, second = json.loads(out)
    assert (code, err) == (0, "")
    assert (first["file"], first["passed"], first["error"], first["seconds"]) == ("class/ada.py", True, None, 0.5)
    assert (second["passed"], second["points"], first["points"]) == (False, 0, 10)
    assert [
        (one["task"], one["subject"], one["passed"], one["mistakes"], one["unseen"]) for one in second["feedback"]
    ] == [(task, "", False, ["unmatched"], []) for task in TASKS]


def test_csv_is_a_row_for_each(review, ran):
    code, out, err = review(hand_in(ada="x", bob="wrong"), "--csv")
    rows = [*csv.DictReader(io.StringIO(out))]
    assert (code, err) == (0, "")
    assert [(row["file"], row["passed"], row["pairs"]) for row in rows] == [
        ("class/ada.py", "yes", "right"),
        ("class/bob.py", "no", "unmatched"),
    ]
    assert Path("lab-review/class.csv").read_text() == out


def test_a_class_is_a_table_and_a_page_for_each(review, ran):
    code, out, _ = review(hand_in(ada="x", bob="wrong"))
    assert code == 0
    assert "class/ada.py" in out
    assert "pairs: unmatched" in out
    assert ": right" not in out
    assert "Pages: lab-review" in out
    names = {"ada.py.html", "bob.py.html", "class.html", "class.csv", "class.json", "runs"}
    assert {path.name for path in Path("lab-review").iterdir()} == names


@pytest.mark.parametrize(("level", "more"), [("nudge", []), ("hint", ["--solution"])])
def test_a_single_file_is_answered_in_words_and_leaves_nothing(level, more, review, ran):
    from lab.review.feedback import knowledge

    texts = knowledge()["mistakes"]["unmatched"]
    code, out, _ = review(write("bob.py", "wrong"), "--level", level, *more)
    assert code == 0
    assert texts["title"] in out
    assert (" ".join(texts["hint"].split()[:3]) in " ".join(out.split())) == (level == "hint")
    assert (" ".join(texts["solution"].split()[:3]) in " ".join(out.split())) == bool(more)
    assert [path.name for path in Path().iterdir()] == ["bob.py"]
    assert "say --out" in out


def test_only_what_has_changed_is_run_again(review, ran):
    folder = hand_in(ada="x", bob="wrong", eve="raise")
    for change, again in [
        (lambda: None, {"ada.py", "bob.py", "eve.py"}),
        (lambda: None, set()),
        (lambda: write("class/ada.py", "wrong"), {"ada.py"}),
        (lambda: write("mine.toml", "[points]\npairs = 9"), set()),
        (lambda: write("map.py", "first = a"), {"ada.py", "bob.py", "eve.py"}),
    ]:
        change()
        options = [
            part
            for name, file in (("--rubric", "mine.toml"), ("--adapter", "map.py"))
            if Path(file).exists()
            for part in (name, file)
        ]
        ran.clear()
        assert review(folder, *options)[0] == 0
        assert {path.name for path, *_ in ran} == again
    ran.clear()
    assert review(folder, *options, "--timeout", 5)[0] == 0  # more time may help what failed, and nothing else
    assert {(path.name, adapter, seconds) for path, adapter, seconds in ran} == {("eve.py", "first = a", 5.0)}


def test_another_rubric_changes_the_points_without_a_run(review, ran):
    folder = hand_in(ada="x")
    review(folder)
    rubric = write("mine.toml", "[points]\npairs = 9")
    _, out, _ = review(folder, "--rubric", rubric, "--json")
    assert json.loads(out)[0]["points"] == 16
    assert len(ran) == 1


def test_what_is_done_is_kept_when_it_is_interrupted(review, ran, monkeypatch):
    folder, really = hand_in(ada="x", bob="x", eve="x"), commands.run_submission

    def interrupted(path, *more):
        if path.name == "bob.py":
            time.sleep(0.2)  # until the first is written down
            raise KeyboardInterrupt
        return really(path, *more)

    monkeypatch.setattr(commands, "run_submission", interrupted)
    code, _, err = review(folder, "--jobs", 1)
    assert code == 130
    assert err == "error: interrupted, nothing half done was kept\n"
    monkeypatch.setattr(commands, "run_submission", really)
    ran.clear()
    assert review(folder)[0] == 0
    assert "ada.py" not in {path.name for path, *_ in ran}


def test_names_of_every_kind_are_told_apart(review, ran):
    names = [
        "a/x.py",
        "b/x.py",
        "a+x.py",
        "a_x.py",
        "a b'\"<i>.py",
        "ü日.py",
        "-rf.py",
        "=1+1.py",
        f"{'n' * 200}.py",
        "x.ipynb",
    ]
    for name in names:
        write(f"class/{name}", "x")
    os.symlink("b/x.py", "class/link.py")
    code, out, _ = review("class", "--json")
    assert code == 0
    assert {one["file"].removeprefix("class/") for one in json.loads(out)} == {*names, "link.py"}
    pages = [path.name for path in Path("lab-review").glob("*.html")]
    assert len(pages) == len(names) + 2
    assert {"a+x.py.html", "b+x.py.html", "ü日.py.html"} <= set(pages)
    assert max(map(len, pages)) < 130
    assert "&lt;i&gt;" in Path("lab-review/class.html").read_text(encoding="utf-8")


def test_names_that_are_no_text_command_no_terminal(review, ran):
    write("class/ok.py")
    Path(os.fsdecode(b"class/\xff\x1b[2J.py")).write_text("x")
    code, out, _ = review("class")
    assert code == 0
    assert "\x1b" not in out
    assert "\ufffd\ufffd[2J.py" in out


def test_the_names_of_students_come_from_nbgraders_folders(review, ran):
    for student in ("ada", "bob"):
        write(f"submitted/{student}/ps1/exercise.ipynb", "x")
        write(f"submitted/{student}/ps1/.ipynb_checkpoints/exercise-checkpoint.ipynb", "x")
        write(f"submitted/{student}/ps1/timestamp.txt", "x")
    assert review("submitted")[0] == 0
    assert {"ada+ps1+exercise.ipynb.html", "bob+ps1+exercise.ipynb.html"} < {
        p.name for p in Path("lab-review").iterdir()
    }
    assert len(ran) == 2


def test_what_is_no_submission_is_one_line_each_and_the_others_go_on(review, ran):
    Path("empty").mkdir()
    os.mkfifo("pipe.py")
    os.symlink("nowhere", "broken.py")
    os.symlink("loop.py", "loop.py")
    given = {
        "missing.py": "there is no such file",
        "empty": "the folder holds no notebook (.ipynb) and no script (.py)",
        "notes.txt": "it is neither a notebook (.ipynb) nor a script (.py)",
        "pipe.py": "it is neither a notebook (.ipynb) nor a script (.py)",
        "broken.py": "there is no such file",
        "loop.py": "there is no such file",
    }
    write("notes.txt")
    code, out, err = review(write("ok.py"), *given, "--json")
    assert code == 2
    assert {one["file"]: one["error"] for one in json.loads(out)} == {"ok.py": None, **given}
    assert err.startswith("error: 6 of 7 could not be run: missing.py: there is no such file; empty: the folder")
    assert err.count("\n") == 1
    assert [path.name for path, *_ in ran] == ["ok.py"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(review, ran):
    write("secret.py").chmod(0)
    assert "it cannot be read: Permission denied" in review("secret.py")[2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--json", "--csv"], "what is printed is --json or --csv: not both"),
        (["--timeout", "0"], "timeout must be above 0 and jobs at least 0: 0, 0"),
        (["--timeout", "nan"], "timeout must be above 0 and jobs at least 0: nan, 0"),
        (["--jobs", "-1"], "timeout must be above 0 and jobs at least 0: 600, -1"),
        (["--level", "all"], "Invalid value for '--level'"),
        (["--rubric", "none.toml"], "the rubric none.toml cannot be read: "),
        (["--adapter", "none.py"], "the adapter none.py cannot be read: "),
        (["--adapter", "broken.py"], "the adapter broken.py cannot be read: '(' was never closed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_exit_code_2(options, said, review, ran):
    write("broken.py", "x = (")
    code, out, err = review(write("ok.py"), *options)
    assert (code, out, ran) == (2, "", [])
    assert said in err
    assert err.count("\n") == 1


def test_on_windows_it_is_refused_and_all_other_commands_are_there(review, ran, monkeypatch):
    monkeypatch.setattr(commands.sys, "platform", "win32")
    assert "use Linux, macOS or WSL" in review(write("ok.py"))[2]
    code = "import sys; sys.modules['resource'] = None; import lab.cli"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pages_that_cannot_be_written_are_the_labs_own_failure(review, ran):
    write("taken", "a file")
    code, _, err = review(write("ok.py"), "--out", "taken")
    assert code == 1
    assert "the files cannot be written to taken" in err


def test_a_real_class_is_run_and_goes_on_after_an_interrupt(tmp_path):
    """As a process; the second program never ends by itself, and the third waits for it."""
    for name, text in (("a.py", "first = 1"), ("b.py", "while True: pass"), ("c.py", "x = 1 +")):
        (tmp_path / name).write_text(text)
    command = [Path(sys.executable).with_name("lab"), "review", tmp_path, "--out", tmp_path / "out", "--jobs", "1"]
    options = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen([*command, "--timeout", "600"], preexec_fn=heeds_interrupts, **options)
    kept = tmp_path / "out" / "runs" / "a.py.json"
    deadline = time.monotonic() + PROGRAM
    while not kept.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=PROGRAM)
    finally:
        process.kill()
    assert process.returncode == 130
    before = kept.stat().st_mtime_ns
    ended = subprocess.run([*command, "--timeout", "1", "--csv"], capture_output=True, text=True, check=True)
    rows = {row["file"].rpartition("/")[2]: row for row in csv.DictReader(io.StringIO(ended.stdout))}
    assert kept.stat().st_mtime_ns == before
    assert rows["a.py"]["error"] == ""
    assert rows["b.py"]["error"] == "line 1 (`while True: pass`): is still running when its time is over"
    assert rows["c.py"]["error"] == "line 1 (`x = 1 +`): SyntaxError: invalid syntax"
