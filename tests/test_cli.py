"""The command line as people meet it: its two streams and its exit code; as a process where that is what matters."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import jaxtyping
import jsonschema
import numpy as np
import pytest
import torch
from patience import PROGRAM, heeds_interrupts

from lab import build_model, exercise, fit, load_mnist
from lab.cli import main
from lab.training import RECIPES

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "docs" / "evidence.schema.json").read_text(encoding="utf-8"))
COMMAND = [str(Path(sys.executable).with_name("lab"))]
QUICK = ["--epochs", "1"]


DEAD_SEED = 31  # every window of every digit is negative under its initial weights: the one ReLU never opens


def settings(root):
    return {"LAB_DATA": str(root), "COLUMNS": "100", "NO_COLOR": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def process(offline_path):
    """The command line as a process of its own, which can reach no network."""

    def run(*arguments, root, cwd, stdout=subprocess.PIPE, command=COMMAND, **options):
        return subprocess.run(
            [*command, *map(str, arguments)],
            cwd=cwd,
            env=os.environ | settings(root) | {"PYTHONPATH": str(offline_path)} | options.pop("environment", {}),
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            **options,
        )

    return run


def lab(*arguments, root, cwd, stdout=None, environment=None):
    """The same, much faster, in this process: what `main` prints, and the code it ends with."""
    out, err = stdout or stream(), stream()
    jaxtyping.config.update("jaxtyping_disable", True)  # as for a user
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("default")
            patch.chdir(cwd)
            for name, value in (settings(root) | {"MPLBACKEND": "agg"} | (environment or {})).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["lab", *map(str, arguments)])
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            try:
                code = main() or 0
            except SystemExit as ended:
                code = ended.code
    finally:
        signal.signal(signal.SIGTERM, handler)
        jaxtyping.config.update("jaxtyping_disable", False)
    return SimpleNamespace(returncode=code, stdout=text_of(out), stderr=text_of(err))


def stream(encoding="utf-8"):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


def text_of(stream):
    stream.flush()
    return stream.buffer.getvalue().decode(stream.encoding) if isinstance(stream.buffer, io.BytesIO) else ""


@pytest.fixture
def few_pairs(monkeypatch):
    """Two pairs for each displacement, where it does not matter how much is measured."""
    monkeypatch.setattr(exercise, "PAIRS", 160)


@pytest.fixture(scope="module")
def done(source, root, process, tmp_path_factory):
    """One run as the README gives it, on each data set."""
    folder = tmp_path_factory.mktemp("run")
    return folder, process("run", "--data", source, root=root, cwd=folder)


def test_the_main_job_prints_the_table_and_writes_the_report(done, source):
    folder, process = done
    assert process.returncode == 0, process.stderr
    for part in ("Theory", "Observed", "Control", "Verdict", "trained conv1", "untrained conv1", "trained fc1"):
        assert part in process.stdout
    assert "theory and observation agree on 6 of 6 claims" in " ".join(process.stdout.split())
    assert "They are not: trained fc1" in " ".join(process.stdout.split())
    assert (folder / "lab-report" / "report.html").is_file()
    found = json.loads((folder / "lab-report" / "evidence.json").read_text())
    jsonschema.validate(found, SCHEMA)
    assert found["data"]["name"] == {"full": "MNIST", "embedded": "MNIST-10k"}[source]
    assert found["evaluation"]["trained"]["accuracy"] >= {"full": 0.920, "embedded": 0.87}[source]


@pytest.mark.parametrize("source", ["embedded"], indirect=True)
def test_the_second_run_takes_the_network_from_cache_and_finds_the_same(done, source, root):
    folder, _ = done
    first = json.loads((folder / "lab-report" / "evidence.json").read_text())
    process = lab("run", "--data", source, "--json", root=root, cwd=folder)
    assert process.stderr == ""
    second = json.loads(process.stdout)
    assert second["training"]["from_cache"]
    assert second["claims"] == first["claims"]
    assert second["measurements"] == first["measurements"]
    assert json.loads((folder / "lab-report" / "evidence.json").read_text()) == second


@pytest.mark.usefixtures("few_pairs")
def test_the_pooled_network_runs_too(tmp_path):
    options = ("--data", "embedded", "--model", "pooled", "--epochs", "1", "--seed", "3", "--out", "here")
    process = lab("run", *options, root=tmp_path, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    found = json.loads((tmp_path / "here" / "evidence.json").read_text())
    assert (found["model"]["name"], found["seed"], found["training"]["epochs"]) == ("pooled", 3, 1)


@pytest.mark.usefixtures("few_pairs")
def test_a_network_that_answers_always_the_same_is_no_finding_but_a_failure_with_a_report(tmp_path):
    process = lab("run", "--data", "embedded", "--seed", DEAD_SEED, root=tmp_path, cwd=tmp_path)
    assert process.returncode == 1
    assert "degenerate" in process.stdout
    assert "error: trained fc1: invariance error: degenerate (the layer is zero, or" in one_line_error(process)
    assert "This network shows nothing about it" in " ".join(process.stdout.split())
    assert "Training failed" in " ".join(process.stdout.split())
    assert json.loads((tmp_path / "lab-report" / "evidence.json").read_text())["agree"] is False


@pytest.mark.usefixtures("few_pairs")
def test_a_terminal_that_knows_ascii_only_gets_the_table_too_and_without_cache_nothing_is_kept(tmp_path):
    empty = tmp_path / "root"
    options = {"root": empty, "cwd": tmp_path, "stdout": stream("ascii")}
    ended = lab("run", "--data", "embedded", *QUICK, "--no-cache", **options)
    assert ended.returncode == 0, ended.stderr
    assert "? 0.01" in ended.stdout  # the sign for "at least", which ASCII lacks
    assert not empty.exists()


def test_a_terminal_that_does_not_know_its_width_gets_the_table_too(trained, tmp_path):
    ended = lab("meter", *CLOUDS, root=trained, cwd=tmp_path, environment={"COLUMNS": "0"})
    assert ended.returncode == 0
    assert "conv1" in ended.stdout


def by_shell(redirection):
    return ["sh", "-c", f'"{COMMAND[0]}" "$@" {redirection}', "lab"]


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["run", "--banana"], 2)], ids=["right", "wrong"])
def test_a_closed_stream_is_quiet_and_the_exit_code_is_right(process, tmp_path, redirection, arguments, code):
    ended = process(*arguments, command=by_shell(redirection), root=tmp_path, cwd=tmp_path)
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr
    assert ended.stderr == "" or code == 2


def test_a_measurement_whose_output_is_closed_still_draws_its_figure(process, trained, tmp_path):
    """Also with settings of matplotlib that this machine cannot draw with, none of which a figure depends on."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\naxes.facecolor: red\n")
    options = {"root": trained, "cwd": tmp_path, "environment": {"MPLBACKEND": "nonsense"}}
    ended = process("meter", *CLOUDS, "--plot", "profile.svg", command=by_shell(">&-"), **options)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "#ff0000" not in (tmp_path / "profile.svg").read_text()


def test_help_names_every_option():
    process = lab("run", "--help", root=".", cwd=".")
    for option in ("--data", "--model", "--seed", "--epochs", "--out", "--device", "--json", "--no-cache"):
        assert option in process.stdout


def test_version_is_the_packages():
    from lab import __version__

    assert lab("--version", root=".", cwd=".").stdout == f"equivariance-lab {__version__}\n"


USAGE = {
    "unknown model": (["--model", "resnet"], "model must be one of given, pooled: 'resnet'"),
    "unknown device": (["--device", "tpu"], "device must be one of auto, cpu, cuda, mps: 'tpu'"),
    "unknown data": (["--data", "cifar"], "source must be one of auto, full, embedded: 'cifar'"),
    "no epochs": (["--epochs", "0"], "epochs must be at least 1: 0"),
    "negative seed": (["--seed", "-1"], "seed must be at least 0 and below 2 ** 63: -1"),
    "enormous seed": (["--seed", str(2**64)], "seed must be at least 0 and below 2 ** 63: 18446744073709551616"),
    "unknown option": (["--banana"], "No such option: --banana"),
    "epochs no number": (["--epochs", "many"], "Invalid value for '--epochs'"),
    "no folder": (["--out", ""], "Invalid value for '--out': a path must not be empty"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_exit_code_2_and_says_the_rule(case, tmp_path):
    (tmp_path / "file").write_text("mine")
    arguments, said = USAGE[case]
    process = lab("run", *arguments, root=tmp_path, cwd=tmp_path)
    assert said in one_line_error(process, code=2)
    assert process.stdout == ""
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir() if p.is_file()] == [("file", "mine")]


def one_line_error(process, code=1):
    lines = process.stderr.strip().splitlines()
    assert process.returncode == code, process.stderr
    assert len(lines) == 1, process.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_cuda_asked_for_and_absent_is_one_line(tmp_path):
    process = lab("run", "--device", "cuda", "--data", "embedded", root=tmp_path, cwd=tmp_path)
    assert "device cuda is not there: this machine offers" in one_line_error(process)


def test_no_network_and_full_data_is_one_line(tmp_path):
    process = lab("run", "--data", "full", root=tmp_path, cwd=tmp_path)
    assert "the full MNIST set is not in" in one_line_error(process)


@pytest.mark.usefixtures("few_pairs")
def test_no_network_and_a_cache_that_cannot_be_written_are_a_note_each_and_the_run_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    process = lab("run", *QUICK, root=tmp_path / "file", cwd=tmp_path)
    assert process.returncode == 0
    data, cache = process.stderr.strip().splitlines()
    assert data.startswith("note: using the 10,000 embedded digits (MNIST-10k)")
    assert cache.startswith("note: the trained network is not kept")


def test_an_output_folder_that_cannot_be_made_is_one_line(tmp_path):
    process = lab("run", "--data", "embedded", *QUICK, "--out", "/proc/report", root=tmp_path, cwd=tmp_path)
    assert "the files cannot be written to /proc/report" in one_line_error(process)


def test_an_output_folder_that_is_a_file_is_one_line_and_the_file_stays(tmp_path):
    (tmp_path / "file").write_text("mine")
    process = lab("run", "--data", "embedded", *QUICK, "--out", "file", root=tmp_path, cwd=tmp_path)
    assert "the files cannot be written to file: File exists" in one_line_error(process)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def small_files_only():
    """A write beyond 20 kB fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("few_pairs", "small_files_only")
def test_a_full_disk_is_one_line_and_keeps_the_old_report(tmp_path):
    out = tmp_path / "lab-report"
    out.mkdir()
    (out / "report.html").write_text("old")
    ended = lab("run", "--data", "embedded", *QUICK, "--no-cache", root=tmp_path, cwd=tmp_path)
    assert "the files cannot be written to lab-report" in one_line_error(ended)
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("report.html", "old")]


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_an_interrupt_while_training_leaves_no_checkpoint_and_no_report(tmp_path, offline_path, number, code, said):
    running = subprocess.Popen(
        [*COMMAND, "run", "--data", "embedded", "--epochs", "1000"],
        cwd=tmp_path,
        env=os.environ | settings(tmp_path / "root") | {"PYTHONPATH": str(offline_path)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heeds_interrupts,
    )
    deadline = time.monotonic() + PROGRAM
    while not list(tmp_path.glob("lab-report/.writing-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.5)  # well into the training of minutes
    running.send_signal(number)
    try:
        stdout, stderr = running.communicate(timeout=PROGRAM)
    finally:
        running.kill()  # one that goes on in spite of it
    assert running.returncode == code
    assert stdout == ""
    assert stderr.strip() == f"error: {said}, nothing half done was kept"
    assert not list((tmp_path / "lab-report").iterdir())
    assert not list(tmp_path.glob("root/**/*.safetensors"))
    assert not list(tmp_path.glob("root/**/.writing-*"))


def test_what_a_killed_run_left_is_gone_after_the_next(trained, tmp_path):
    (tmp_path / "out" / ".writing-killed").mkdir(parents=True)
    (tmp_path / "out" / ".writing-killed" / "report.html").write_text("half")
    arguments = ("shiftmap", "--data", "embedded", "--count", 10, "--radius", 1, "--out", "out")
    assert lab(*arguments, root=trained, cwd=tmp_path).returncode == 0
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".json", ".png", ".png", ".svg", ".svg"]


NOISY = """import sys
from torch import nn
print("imported")

class Noisy(nn.Conv2d):
    def forward(self, x):
        print("forward")
        return super().forward(x)

def make():
    print("made")
    return nn.Sequential(Noisy(1, 2, 3))
"""


def test_what_a_model_prints_does_not_spoil_the_json(tmp_path):
    (tmp_path / "noisy.py").write_text(NOISY)
    options = ("--size", 12, 12, "--shifts", "1,0", "--count", 2, "--json")
    ended = lab("meter", "noisy:make", *options, root=tmp_path, cwd=tmp_path)
    assert json.loads(ended.stdout)["rows"]
    assert set(ended.stderr.split()) == {"imported", "made", "forward"}


def test_names_of_files_and_layers_cannot_command_the_terminal(trained, tmp_path):
    code = "from collections import OrderedDict\nfrom torch import nn\n"
    code += "def make():\n    return nn.Sequential(OrderedDict({'a\\x1bc': nn.Conv2d(1, 1, 3)}))\n"
    (tmp_path / "odd.py").write_text(code)
    odd = "\x1b]0;owned\x07\u202e\x9b2J\nsecond line"
    ended = [
        lab("meter", "odd:make", "--size", 9, 9, "--shifts", "1,0", "--count", 2, root=tmp_path, cwd=tmp_path),
        lab("meter", "given", "--images", f"nowhere{odd}", root=tmp_path, cwd=tmp_path),
        lab("meter", "given", "--images", odd, "--count", "x", root=tmp_path, cwd=tmp_path),
        lab("shiftmap", "--data", "embedded", "--count", 4, "--radius", 1, "--out", odd, root=trained, cwd=tmp_path),
    ]
    assert [one.returncode for one in ended] == [0, 2, 2, 0]
    for one in ended:
        assert (one.stdout + one.stderr).replace("\n", "").isprintable()
    assert "a�" in ended[0].stdout
    for one in ended[1:3]:
        one_line_error(one, code=2)


def test_the_meter_prints_theory_observed_and_why_for_every_layer(root_of, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "nonsense")  # the figure does not depend on what else matplotlib is told
    monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path))
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    process = lab("meter", "pooled", "--plot", "profile.svg", root=root_of("embedded"), cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    for part in ("conv1", "fc2", "exact", "broken", "S = 4 does not divide the shift", "ρ = 0.0"):
        assert part in process.stdout
    assert "✗" not in process.stdout
    assert (tmp_path / "profile.svg").read_text().startswith("<?xml")


def test_the_meter_takes_a_network_of_the_users_own_and_prints_json(tmp_path):
    code = "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU())\n"
    (tmp_path / "mine.py").write_text(code)
    options = ("--size", 20, 30, "--shifts", "2,0 0,-1", "--count", 3, "--layer", "0", "--json")
    process = lab("meter", "mine:make", *options, root=tmp_path, cwd=tmp_path)
    assert process.stderr == ""
    found = json.loads(process.stdout)
    assert found["settings"]["size"] == [3, 20, 30]
    assert [(row["dy"], row["dx"], row["observed"]) for row in found["rows"]] == [(2, 0, "exact"), (0, -1, "not exact")]


OWN = """import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, *, width=4):
        super().__init__(nn.Conv2d(1, width, 3), nn.ReLU(), nn.MaxPool2d(2))
"""


@pytest.fixture
def own(tmp_path):
    """A folder with a network of one's own, its weights, and images; and what to measure of it."""
    (tmp_path / "net.py").write_text(OWN)
    weights = {"0.weight": torch.ones(2, 1, 3, 3), "0.bias": torch.zeros(2)}
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, tmp_path / "net.pt")
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (3, 12, 14), dtype=np.uint8))
    return "net.py:Net(width=2)", "--weights", "net.pt", "--images", "images.npy", "--shifts", "1,0 2,2"


def test_a_trained_network_and_images_from_files_are_measured_and_reported_in_files(own, tmp_path):
    scale = (
        "--mean",
        "0.5",
        "--std",
        "0.25",
        "--background",
        "-2",
        "--quantities",
        "equivariance,sorting",
    )
    files = ("--out", "report.html", "--out", "tables/report.csv", "--out", "report.json")
    ended = lab("meter", *own, *scale, *files, "--quiet", root=tmp_path, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["settings"]["from"] == {"model": own[0], "weights": "net.pt", "images": "images.npy"}
    assert (found["settings"]["background"], found["settings"]["size"]) == (-2, [1, 12, 14])
    assert found["settings"]["quantities"] == ["equivariance", "sorting"]
    lines = (tmp_path / "tables" / "report.csv").read_text().splitlines()
    assert len(lines) == 1 + len(found["rows"]) == 1 + 3 * 2
    assert "net.py:Net(width=2)" in (tmp_path / "report.html").read_text()
    assert not list(tmp_path.rglob(".writing-*"))


def test_a_report_that_cannot_be_written_is_one_line_before_anything_is_measured(own, tmp_path):
    (tmp_path / "file").write_text("mine")
    ended = lab("meter", *own, "--out", "file/report.csv", "--out", "other.csv", root=tmp_path, cwd=tmp_path)
    assert "the files cannot be written to file: File exists" in one_line_error(ended)
    assert not (tmp_path / "other.csv").exists()


def test_what_goes_wrong_later_leaves_the_old_report(own, tmp_path):
    (tmp_path / "old.csv").write_text("old")
    ended = lab("meter", *own, "--layer", "nothing", "--out", "old.csv", root=tmp_path, cwd=tmp_path)
    assert "no layer 'nothing'" in one_line_error(ended, code=2)
    assert (tmp_path / "old.csv").read_text() == "old"


def test_a_checkpoint_that_does_not_fit_is_one_line_with_its_names(own, tmp_path):
    ended = lab("meter", "net.py:Net", *own[1:], root=tmp_path, cwd=tmp_path)
    said = "net.pt does not fit the model: of another shape: 0.bias ([2], not [4]), 0.weight ([2, 1, 3, 3], not"
    assert said in one_line_error(ended, code=2)


def test_the_given_network_comes_trained_from_where_its_checkpoints_are_kept(trained, tmp_path):
    options = ("--weights", "DEFAULT", "--images", "fractal", "--size", 28, 28, "--shifts", "1,0", "--json")
    options += ("--quantities", "equivariance", "--quantities", "invariance")
    ended = lab("meter", "given", *options, root=trained, cwd=tmp_path)
    untrained = lab("meter", *CLOUDS, "--shifts", "1,0", "--json", root=trained, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert len(list((trained / "checkpoints").iterdir())) == 1
    first, second = (json.loads(one.stdout) for one in (ended, untrained))
    assert first["settings"]["from"]["weights"] == "DEFAULT"
    assert first["settings"]["quantities"] == ["equivariance", "invariance"]
    assert first["heads"]["fc1"]["rho"] != second["heads"]["fc1"]["rho"]


def test_circular_shifts_are_measured_too(tmp_path):
    process = lab("meter", *CLOUDS, "--wrap", "--shifts", "3,-5", "--json", root=tmp_path, cwd=tmp_path)
    assert json.loads(process.stdout)["settings"]["mode"] == "wrap"


CLOUDS = ["given", "--images", "fractal", "--size", "28", "28"]
METER_USAGE = {
    "unknown model": (["resnet"], "file.py:NAME or package.module:NAME: 'resnet'"),
    "unknown layer": ([*CLOUDS, "--layer", "conv9"], "the model has conv1, fc1"),
    "shifts no pairs": ([*CLOUDS, "--shifts", "1,0 4"], "shifts must be pairs of whole numbers dy,dx"),
    "shift too large": ([*CLOUDS, "--shifts", "0,28"], "shift must be smaller than the image: |dx|=28, w=28"),
    "size unfit": ([*CLOUDS, "--size", "30", "30"], "the model fails on images of shape (1, 1, 30, 30)"),
    "no images": ([*CLOUDS, "--count", "0"], "count and size must be at least 1: count 0"),
    "enormous seed": ([*CLOUDS, "--seed", str(2**64)], "seed must be at least 0 and below 2 ** 63"),
    "no file": ([*CLOUDS, "--plot", " "], "Invalid value for '--plot': a path must not be empty"),
    "no folder": (["given", "--images", "nowhere"], "a folder of pictures or a file (.npy, .pt, .pth): 'nowhere'"),
    "no checkpoint": ([*CLOUDS, "--weights", "nowhere.pt"], "there is no file nowhere.pt"),
    "another kind of report": ([*CLOUDS, "--out", "report.txt"], "a report is a file .html, .csv or .json: report.txt"),
    "mean no numbers": ([*CLOUDS, "--mean", "0.5;0.5"], "Invalid value for '--mean'"),
    "mean of clouds": ([*CLOUDS, "--mean", "0.5"], "mean and std are for pictures and files: images are fractal"),
    "unknown quantity": ([*CLOUDS, "--quantities", "speed"], "some of equivariance, invariance, sorting: ['speed']"),
    "unknown device": ([*CLOUDS, "--device", "tpu"], "device must be one of auto, cpu, cuda, mps: 'tpu'"),
    "background no number": ([*CLOUDS, "--background", "nan"], "background must be finite: nan"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data root with the given network, trained on the embedded digits, which a process offline falls back on."""
    root = tmp_path_factory.mktemp("trained")
    fit(build_model("given", seed=0), load_mnist("embedded").train, RECIPES["given"], cache=root / "checkpoints")
    return root


@pytest.mark.parametrize("case", METER_USAGE)
def test_wrong_usage_of_the_meter_is_one_line_and_exit_code_two(case, trained, tmp_path):
    options, said = METER_USAGE[case]
    process = lab("meter", *options, root=trained, cwd=tmp_path)
    assert said in one_line_error(process, code=2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [["--version"], ["meter", *CLOUDS], ["meter", *CLOUDS, "--json"]], ids=len)
def test_a_full_disk_behind_standard_output_is_one_line(arguments, trained, tmp_path):
    with open("/dev/full", "w") as full:
        ended = lab(*arguments, root=trained, cwd=tmp_path, stdout=full)
    assert one_line_error(ended) == "error: the text cannot be printed: No space left on device"


def test_a_figure_that_cannot_be_written_is_one_line(trained, tmp_path):
    process = lab("meter", *CLOUDS, "--plot", "no/such/folder.png", root=trained, cwd=tmp_path)
    assert "the figure cannot be written to no/such/folder.png" in one_line_error(process)


MAPS = ("shiftmap", "--data", "embedded", "--count", 60, "--radius", 3)
MAPS_SCHEMA = json.loads((ROOT / "docs" / "shiftmap.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shiftmap")
    return folder, lab(*MAPS, root=folder / "data", cwd=folder)


def test_shift_maps_are_a_table_and_figures(mapped):
    folder, process = mapped
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    said = " ".join(process.stdout.split())
    for part in ("60 images at 49 shifts", "Accuracy", "Consistency", "right at every shift:", "computed dense"):
        assert part in said
    out = folder / "lab-shiftmap"
    names = {"accuracy.png", "accuracy.svg", "consistency.png", "consistency.svg", "shiftmap.json"}
    assert {path.name for path in out.iterdir()} == names
    found = json.loads((out / "shiftmap.json").read_text())
    jsonschema.validate(found, MAPS_SCHEMA)
    with pytest.raises(jsonschema.ValidationError, match="is greater than the maximum"):
        jsonschema.validate(found | {"worst_case": 1.01}, MAPS_SCHEMA)
    assert (found["model"], found["data"], found["images"], found["radius"]) == ("given", "MNIST-10k", 60, 3)
    assert found["accuracy"][3][3] >= 0.8
    assert found["consistency"][3][3] == 1


def test_shift_maps_of_a_network_from_cache_are_written_and_said_alike(mapped):
    folder, _ = mapped
    process = lab(*MAPS, "--method", "brute", "--json", root=folder / "data", cwd=folder)
    assert process.stderr == ""
    brute = json.loads(process.stdout)
    jsonschema.validate(brute, MAPS_SCHEMA)
    assert (brute["method"], brute["why"]) == ("brute", "asked for")
    assert json.loads((folder / "lab-shiftmap" / "shiftmap.json").read_text()) == brute
    assert len(list((folder / "data" / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "resnet"], "model must be one of given, pooled: 'resnet'"),
        (["--radius", "-1"], "radius must be at least 0: -1"),
        (["--count", "0"], "count must be at least 1: 0"),
        (["--method", "fast"], "method must be one of auto, dense, brute: 'fast'"),
        (["--data", "cifar"], "source must be one of auto, full, embedded: 'cifar'"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--seed", str(2**64)], "seed must be at least 0 and below 2 ** 63: 18446744073709551616"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_usage_of_the_shift_maps_is_exit_code_2_and_leaves_nothing(arguments, said, trained, tmp_path):
    process = lab("shiftmap", "--data", "embedded", *arguments, root=trained, cwd=tmp_path)
    assert said in one_line_error(process, code=2)
    assert process.stdout == ""
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


NETWORK = """
from torch import nn

def net(norm=False):
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4) if norm else nn.MaxPool2d(2))
"""


def test_tile_tells_how_to_cut_images_or_which_layer_forbids_it(tmp_path):
    (tmp_path / "mine.py").write_text(NETWORK)
    options = ("--size", 40, 48)
    found = lab("tile", "mine.py:net", *options, root=tmp_path, cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert "Halo: top 2, bottom 2, left 2, right 2 px" in found.stdout
    assert "multiples of 2 × 2 px" in found.stdout
    forbidden = lab("tile", "mine.py:net(norm=True)", *options, "--json", root=tmp_path, cwd=tmp_path)
    assert forbidden.returncode == 0
    plain = json.loads(forbidden.stdout)
    assert (plain["halo"], plain["why"].startswith("from 1 on, every output sees")) == (None, True)
    missing = lab("tile", "mine.py:net", "--layer", "7", *options, root=tmp_path, cwd=tmp_path)
    assert "error: 7 returns no tensor: the last maps are 0, 1" in one_line_error(missing, code=2)


def test_a_network_of_ones_own_is_written_for_the_playground(tmp_path):
    process = lab("export", "--model", "given", "--out", tmp_path / "own", root=tmp_path, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "1. conv1: conv.1.2.1.none.1" in process.stdout
    assert json.loads((tmp_path / "own" / "network.json").read_text())["layers"] == ["conv1", "relu", "fc1"]


def test_weights_for_the_playground_need_a_network(tmp_path):
    process = lab("export", "--weights", "net.pt", root=tmp_path, cwd=tmp_path)
    assert "weights are those of a network: name it with --model" in one_line_error(process, code=2)
