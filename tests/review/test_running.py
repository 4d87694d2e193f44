"""Programs that students hand in, and that break in every way: each costs only itself, and gets a sentence."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event, Timer

import psutil
import pytest
from patience import PAGE

from lab.errors import LabError
from lab.review import running
from lab.review.commands import _prepare as prepare
from lab.review.running import run_submission

CONTENT = """
import os, pickle, sys, tempfile
import helper_beside
assert helper_beside.VALUE == 3
assert sys.argv == [__file__] and __name__ == "__main__" and os.path.isabs(__file__)
assert os.getcwd().startswith(tempfile.gettempdir()) and os.path.expanduser("~") == tempfile.gettempdir()
assert "LECTURERS_TOKEN" not in os.environ and "DISPLAY" not in os.environ
import matplotlib.pyplot as plt
plt.plot([1, 2]); plt.show(); plt.savefig("figure.png")
import torch
from torch.utils.data import DataLoader
torch.set_num_threads(8)
assert torch.get_num_threads() == 1
torch.save({"a": 1}, "model.pt")
assert torch.load("model.pt") == {"a": 1}
class Thing: pass
assert isinstance(pickle.loads(pickle.dumps(Thing())), Thing)
assert len(list(DataLoader(range(8), num_workers=2))) == 8
get_ipython().run_line_magic("matplotlib", "inline")
print('{"error": 1}'); os.write(1, b"x"); os.write(2, b"y")
if __name__ == "__main__":
    sys.exit(0)
"""
DIGITS = """
import numpy as np
from torchvision.datasets import MNIST, FashionMNIST
from torchvision import transforms
import lab
anywhere = MNIST("/content/data", train=False, download=True)
home = MNIST("~/mnist", train=False)
here = MNIST("./somewhere", download=True, transform=transforms.ToTensor())
for place in ("somewhere", "data", "."):
    labels = np.fromfile(f"{place}/MNIST/raw/train-labels-idx1-ubyte", np.uint8, offset=8)
    assert labels.tolist() == here.targets.tolist()
assert (here[0][0].shape, len(anywhere), len(home)) == ((1, 28, 28), 2_000, 2_000)
train = lab.load_mnist("auto").train
assert (train.images[:, 0] * 255).round().byte().equal(here.data) and train.labels.equal(here.targets)
try:
    FashionMNIST("fashion")
except RuntimeError as error:
    assert "not found" in str(error).lower()
else:
    raise ValueError("digits for clothes")
"""
ELSEWHERE = """
import os, shutil, socket, torch, urllib.request
from pathlib import Path
other, folder = "OTHER/file", "OTHER"
calls = [
    *(lambda: open(other, "w"), lambda: open(other, "r+"), lambda: os.open(other, os.O_RDWR)),
    *(lambda: Path(other).write_text(""), lambda: open("../../x", "w"), lambda: open(os.fsencode(other), "ab")),
    *(lambda: torch.save(1, folder + "/x.pt"), lambda: torch.save(obj=1, f=Path(folder, "x.pt"))),
    *(lambda: os.remove(other), lambda: Path(other).unlink(), lambda: shutil.rmtree(folder)),
    *(lambda: os.truncate(other, 0), lambda: Path(other).touch()),
    *(lambda: os.rename(other, "mine"), lambda: os.replace("/dev/null", other), lambda: shutil.move(other, "mine")),
    *(lambda: os.mkdir(folder + "/new"), lambda: os.link(other, "x"), lambda: os.symlink("x", folder + "/link")),
    *(lambda: os.chmod(other, 0), lambda: os.utime(other)),
    *(lambda: urllib.request.urlopen("http://example.org"), lambda: socket.create_connection(("192.0.2.1", 80))),
]
os.symlink(folder, "way_out")
calls.append(lambda: open("way_out/file", "w"))
for i, call in enumerate(calls):
    try:
        call()
    except OSError as error:
        assert "a review" in str(error), (i, error)
    else:
        raise ValueError(i)
assert open(other).read() == "kept"
open("own", "w").close(); os.makedirs("a/b"); os.rename("own", "a/b/own"); shutil.rmtree("a")
open(os.devnull, "w").close()
open(other, "w")
"""
FORKS = """
import os, subprocess, sys, time
for _ in range(3):
    if os.fork() == 0:
        while True:
            time.sleep(1)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
if os.fork() == 0:
    raise ValueError("in a copy")
"""
FOREVER = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
FILES = "import time\nfor i in range(9): open(f'x{i}', 'wb').truncate(5 * 10**8)\nwhile True: time.sleep(1)"
DIES = """
import os
import numpy as np
first = np.random.default_rng(0).random((20, 28, 28))
second = np.roll(first, 1, 1)
def equivariance(a, b):
    os._exit(0)
"""
OVER = "is still running when its time is over"
PROGRAMS = {  # each needs a process of its own
    "all that programs do": (CONTENT, None),
    "digits wherever they are looked for": (DIGITS, None),
    "elsewhere": (ELSEWHERE, '(`open(other, "w")`): PermissionError: writes outside of its own folder'),
    "forks": (FORKS, None),
    "forks without end": (
        "import os\nwhile True: os.fork()",
        "line 2 (`while True: os.fork()`): RuntimeError: starts too many",
    ),
    "loops for ever": (FOREVER, OVER),
    "prints for ever": ("while True: print('x' * 1000)", f"line 1 (`while True: print('x' * 1000)`): {OVER}"),
    "input": ("x = input('?')", "line 1 (`x = input('?')`): asks for input(), and nobody answers"),
    "memory": (
        "import torch\nx = torch.zeros(10**10)",
        "line 2 (`x = torch.zeros(10**10)`): needs more than 4 GB of memory",
    ),
    "10 GB in a file": (
        "open('x', 'wb').truncate(10**10)",
        "(`open('x', 'wb').truncate(10**10)`): writes a file of more",
    ),
    "10 GB in files": (FILES, "the program: writes more than 1 GB"),
    "os._exit": ("import os\nos._exit(3)", "the program: ends at once with code 3, as by os._exit()"),
    "dies in the review": (DIES, "the review: ends at once with code 0, as by os._exit()"),
    "crashes": ("import ctypes\ndef f():\n    ctypes.string_at(0)\nf()", "line 3: crashes: Segmentation fault"),
}


LOST = {"os._exit", "crashes", "10 GB in files", "dies in the review"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a file that no program may touch."""
    folder = tmp_path_factory.mktemp("place").resolve()
    (folder / "other").mkdir()
    (folder / "other" / "file").write_text("kept")
    (folder / "helper_beside.py").write_text("VALUE = 3")
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The embedded digits, as programs find them."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lab.load_mnist", partial(__import__("lab").load_mnist, "embedded"))
        assert prepare(folder) == "MNIST-10k"
    return folder


@pytest.fixture(scope="module")
def outcomes(place, shared):
    """All of `PROGRAMS` at once, two at a time."""

    def run(name):
        path = place / f"{name}.py"
        path.write_text(PROGRAMS[name][0].replace("OTHER", str(place / "other")), encoding="utf-8")
        seconds = 2.0 if (PROGRAMS[name][1] or "").endswith(OVER) else 240.0
        return name, run_submission(path, "", seconds, shared, Event())

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setenv("LECTURERS_TOKEN", "secret")
        return dict(pool.map(run, PROGRAMS))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_costs_only_itself_and_gets_a_sentence(name, outcomes):
    said = PROGRAMS[name][1]
    assert outcomes[name].error is None if said is None else said in outcomes[name].error


@pytest.mark.parametrize("name", sorted({*PROGRAMS} - LOST))
def test_what_a_program_defined_until_it_failed_is_reviewed(name, outcomes):
    tasks = [(one["task"], one["subject"]) for one in outcomes[name].feedback]
    assert {task for task, _ in tasks} == {"network", "training", "pairs", "measure", "conclusion"}
    assert len(set(tasks)) == len(tasks)  # a copy of the program that goes on writes nothing


def test_what_was_reviewed_before_it_died_is_kept(outcomes):
    assert [one["task"] for one in outcomes["dies in the review"].feedback] == ["network", "training", "pairs"]


ADAPTER = """
model = nothing_of_this_name
first = second = labels = 1 / 0
conclusion = main()
assert conclusion == 7
activations = equivariance
"""
LOCAL = """
def main():
    conclusion = 7
    return conclusion

if __name__ == "__main__":
    main()
"""
BOOK = [
    "%pip install x\nequivariance = lambda a, b: 0.0",
    "import otter\notter.Notebook('x').check('q')",
    "oops",
    "dy = 1",
]


def test_an_adapter_maps_names_and_what_fails_in_it_is_noted(tmp_path, shared):
    cells = [{"cell_type": "code", "source": text, "metadata": {}} for text in BOOK]
    cells[2:2] = [
        {"cell_type": "code", "source": "assert 0", "metadata": {"nbgrader": {"grade": True, "solution": False}}}
    ]
    (tmp_path / "book.ipynb").write_text(json.dumps({"cells": cells}))
    (tmp_path / "local.py").write_text(LOCAL)
    run = partial(run_submission, adapter=ADAPTER, seconds=240.0, shared=shared, stop=Event())
    with ThreadPoolExecutor(2) as pool:
        book, local = pool.map(run, (tmp_path / "book.ipynb", tmp_path / "local.py"))
    assert book.error == "cell 4, line 1 (`oops`): NameError: name 'oops' is not defined"
    assert [*book.notes] == [
        "cell 1, line 1, is left out: %pip install x",
        "cell 3, line 1, is left out: %%nbgrader, a test",
        "adapter, line 2: NameError: name 'nothing_of_this_name' is not defined",
        "adapter, line 3: ZeroDivisionError: division by zero",
        "adapter, line 4: NameError: name 'main' is not defined",
        "adapter, line 5: NameError: name 'conclusion' is not defined",
    ]
    assert local.error is None
    assert [note.partition(": ")[0] for note in local.notes] == [
        "adapter, line 2",
        "adapter, line 3",
        "adapter, line 6",
    ]


def test_nothing_is_left_behind(outcomes, place):
    assert {path.name for path in place.iterdir()} == {
        "other",
        "helper_beside.py",
        *(f"{name}.py" for name in PROGRAMS),
    }
    assert [path.name for path in (place / "other").iterdir()] == ["file"]
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if str(place) in command or "time.sleep(600)" in command]


@pytest.fixture(autouse=True)
def _alarm():
    """The handler of the alarm is put back."""
    handler = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, handler)


def step(source):
    """What running a script of this text says, in this process."""

    def run():
        running.linecache.cache["script"] = (len(source), None, source.splitlines(True), "script")
        tree = running._parsed("script", source, lambda **_: None)
        exec(compile(tree, "script", "exec"), {"__name__": "__main__"})

    return running._attempt(run, 60.0)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1", None),
        ("def f(x):\n    return x.foo\n\nf(3)\n", "line 4 (`f(3)`) → line 2 (`return x.foo`): AttributeError: 'int'"),
        ("x = (1,\n", "line 1 (`x = (1,`): SyntaxError: '(' was never closed"),
        (
            "class E(Exception):\n    def __str__(self): raise self\nraise E",
            "line 3 (`raise E`): E: <exception str",
        ),
        ("def f(): f()\nf()", "line 2 (`f()`) → line 1 (`def f(): f()`): RecursionError: maximum recursion depth"),
        (
            "import sys\nsys.exit('bye')\nx = 1",
            "line 2 (`sys.exit('bye')`): ends the program, as exit() does; what fol",
        ),
        ("raise KeyboardInterrupt", "line 1 (`raise KeyboardInterrupt`): KeyboardInterrupt"),
        ("raise ValueError('a\\nb')", "line 1 (`raise ValueError('a\\nb')`): ValueError: a"),
        (
            "import json\njson.loads('{')",
            "line 2 (`json.loads('{')`): json.decoder.JSONDecodeError: Expecting property",
        ),
        ("x = bytes(10**17)", "line 1 (`x = bytes(10**17)`): needs more than 4 GB of memory"),
    ],
    ids=[
        "nothing",
        "in a function",
        "no Python",
        "untold",
        "recursion",
        "exit",
        "Ctrl-C",
        "lines",
        "elsewhere",
        "memory",
    ],
)
def test_an_error_is_told_with_its_line_and_the_line_that_led_there(source, said):
    found = step(source)
    assert found is None if said is None else found.startswith(said)


def test_an_alarm_ends_what_catches_every_exception():
    caught = []

    def stubborn():
        while len(caught) < 2:
            try:
                while True:
                    pass
            except BaseException as error:
                caught.append(error)
        while True:
            pass

    assert running._attempt(stubborn, 0.05) == f"the file: {OVER}"
    assert len(caught) == 2
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("source", "left_out", "value"),
    [
        ("%matplotlib inline\nx = 1", ["%matplotlib inline"], 1),
        ("!pip install torch\n%load_ext x\nx = 2", ["!pip install torch", "%load_ext x"], 2),
        ("if True:\n    !ls\n    x = 3", ["!ls"], 3),
        ("x = !ls\nx = 4", ["x = !ls"], 4),
        ("%%time\nx = 5", ["%%time"], 5),
        ("%%bash\nls -l\nfor x in 1; do", ["%%bash"], None),
        ("x = (20\n  % 7)", [], 6),
        ('x = """\n%matplotlib\n!ls\n""".count("l")', [], 3),
        ("import math\nmath.sin?\n?math\nx = 7", ["math.sin?", "?math"], 7),
    ],
    ids=["magics", "shell", "indented", "assigned", "timed cell", "shell cell", "remainder", "in a string", "help"],
)
def test_lines_for_jupyter_are_left_out_and_told(source, left_out, value):
    told, names = [], {}
    exec(compile(running._parsed("cell 2", source, lambda note: told.append(note)), "cell 2", "exec"), names)
    assert [note.partition(": ")[2] for note in told] == left_out
    assert all(note.startswith("cell 2, line ") for note in told)
    assert names.get("x") == value


def cell(kind, source):
    return {"cell_type": kind, "source": source}


def test_cells_with_code_are_counted_from_one(tmp_path):
    cells = [cell("markdown", "# Title"), cell("code", "x = 1"), cell("raw", "y"), cell("code", ["y =\n", " 2"])]
    (tmp_path / "book.ipynb").write_text(json.dumps({"cells": cells}))
    assert running._parts(tmp_path / "book.ipynb") == [("cell 1", "x = 1"), ("cell 2", "y =\n 2")]


NO_BOOK, NO_SCRIPT, NO_CODE = (
    "it is not a notebook of format 4",
    "it is not a script in UTF-8",
    "there is no code in it",
)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("broken.ipynb", b"{", NO_BOOK),
        ("format3.ipynb", b'{"worksheets": [{"cells": []}], "nbformat": 3}', NO_BOOK),
        ("list.ipynb", b"[1, 2]", NO_BOOK),
        ("number.ipynb", b'{"cells": [{"cell_type": "code", "source": 3}]}', NO_BOOK),
        ("deep.ipynb", b"[" * 100_000, NO_BOOK),
        ("empty.ipynb", b"", NO_BOOK),
        ("no_cells.ipynb", b'{"cells": []}', NO_CODE),
        ("empty.py", b" \n", NO_CODE),
        ("latin.py", b"x = '\xff'", NO_SCRIPT),
        ("coding.py", b"# coding: no-such\nx = 1", NO_SCRIPT),
        ("null.py", b"x = 1\0", "null bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_a_file_that_is_no_program_is_told(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert said in running._attempt(partial(running._run_program, tmp_path / name, {}, lambda **_: None), 60.0)


@pytest.mark.parametrize(
    ("records", "ended", "error"),
    [
        ('{"at": "cell 1"}\n{"note": "a"}\n{"error": null, "done": true}', "", None),
        ('{"at": "cell 1"}\n', "crashes: Killed", "cell 1: crashes: Killed"),
        ('{"at": "cell 1"}\nFatal Python error\n  File "cell 1", line 7 in f\n', "crashes", "cell 1, line 7: crashes"),
        ('{"at": "x"}\n{"feedback": {"task": "pairs"}}\n{"feedb', "crashes", "x: crashes"),
        ('{"at": "x"}\n{"error": "\\u001b[2J\\u009b", "done": 1}', "", "\ufffd[2J\ufffd"),
        ('{"at": "x"}\n{"error": "a", "done": 1}\n3\n[]', "", "a"),
    ],
    ids=["ended", "killed", "crashed", "in the middle of a record", "control characters", "other lines"],
)
def test_records_of_a_process_that_died_are_kept(records, ended, error):
    found = running._outcome(records, ended, 1.26)
    assert (found.error, found.seconds) == (error, 1.3)
    assert len(found.feedback) == records.count('"feedback"')


def test_without_a_process_it_is_the_labs_own_error(tmp_path, shared, monkeypatch):
    monkeypatch.setattr(running.sys, "executable", "/bin/false")
    with pytest.raises(LabError, match="no process can be started for a submission: it ends at once with code 1"):
        run_submission(tmp_path / "a.py", "", 5.0, shared, Event())


def test_what_is_stopped_ends_at_once_with_all_its_processes(tmp_path, shared):
    (tmp_path / "stopped.py").write_text(FORKS + "while True: pass")
    stop = Event()
    Timer(4, stop.set).start()
    assert "is stopped" in run_submission(tmp_path / "stopped.py", "", 600.0, shared, stop).error
    theirs = [one for one in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(one.info["cmdline"] or ())]
    _, alive = psutil.wait_procs(theirs, timeout=PAGE)  # killed, they may take a while to go on a busy machine
    assert not alive
