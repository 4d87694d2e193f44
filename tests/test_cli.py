"""The command line as people meet it: a process of its own, its two streams and its exit code."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from lab import build_model, fit, load_mnist
from lab.training import RECIPES

SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "evidence.schema.json").read_text())
COMMAND = [str(Path(sys.executable).with_name("lab"))]
QUICK = ["--epochs", "1"]


DEAD_SEED = 31  # every window of every digit is negative under its initial weights: the one ReLU never opens


@pytest.fixture(scope="module", autouse=True)
def _offline(offline_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(offline_path))
        yield


def environment(root):
    return os.environ | {"LAB_DATA": str(root), "COLUMNS": "100", "NO_COLOR": "1", "CUDA_VISIBLE_DEVICES": ""}


def lab(*arguments, root, cwd, **options):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(root),
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def done(source, root, tmp_path_factory):
    """One run as the README gives it, on each data set."""
    folder = tmp_path_factory.mktemp("run")
    return folder, lab("run", "--data", source, root=root, cwd=folder)


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


def test_without_cache_nothing_is_taken_or_kept(root, tmp_path):
    empty = tmp_path / "root"
    process = lab("run", "--data", "embedded", *QUICK, "--no-cache", root=empty, cwd=tmp_path)
    assert process.returncode == 0
    assert not empty.exists()


def test_the_pooled_network_runs_too(tmp_path):
    options = ("--data", "embedded", "--model", "pooled", "--epochs", "1", "--seed", "3", "--out", "here")
    process = lab("run", *options, root=tmp_path, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    found = json.loads((tmp_path / "here" / "evidence.json").read_text())
    assert (found["model"]["name"], found["seed"], found["training"]["epochs"]) == ("pooled", 3, 1)


def test_a_network_that_answers_always_the_same_is_no_finding_but_a_failure_with_a_report(tmp_path):
    process = lab("run", "--data", "embedded", "--seed", DEAD_SEED, root=tmp_path, cwd=tmp_path)
    assert process.returncode == 1
    assert "degenerate" in process.stdout
    assert "error: trained fc1: invariance error: degenerate (the layer is zero, or" in one_line_error(process)
    assert "This network shows nothing about it" in " ".join(process.stdout.split())
    assert "Training failed" in " ".join(process.stdout.split())
    assert json.loads((tmp_path / "lab-report" / "evidence.json").read_text())["agree"] is False


def test_a_terminal_that_knows_ascii_only_gets_the_table_too(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    process = lab("run", "--data", "embedded", *QUICK, root=tmp_path, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "not invariant: ? 0.01" in process.stdout


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


def test_no_network_and_auto_goes_on_with_a_visible_notice(tmp_path):
    process = lab("run", *QUICK, root=tmp_path, cwd=tmp_path)
    assert process.returncode == 0
    assert process.stderr.startswith("note: using the 10,000 embedded digits (MNIST-10k)")
    assert len(process.stderr.strip().splitlines()) == 1


def test_an_output_folder_that_cannot_be_made_is_one_line(tmp_path):
    process = lab("run", "--data", "embedded", *QUICK, "--out", "/proc/report", root=tmp_path, cwd=tmp_path)
    assert "the files cannot be written to /proc/report" in one_line_error(process)


def test_an_output_folder_that_is_a_file_is_one_line_and_the_file_stays(tmp_path):
    (tmp_path / "file").write_text("mine")
    process = lab("run", "--data", "embedded", *QUICK, "--out", "file", root=tmp_path, cwd=tmp_path)
    assert "the files cannot be written to file: File exists" in one_line_error(process)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_cache_that_cannot_be_written_is_a_note_and_the_run_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    process = lab("run", "--data", "embedded", *QUICK, root=tmp_path / "file", cwd=tmp_path)
    assert process.returncode == 0
    assert process.stderr.startswith("note: the trained network is not kept")


def test_a_full_disk_is_one_line_and_keeps_the_old_report(tmp_path):
    out = tmp_path / "lab-report"
    out.mkdir()
    (out / "report.html").write_text("old")

    def small_files_only():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # a write beyond it fails, as on a full disk

    arguments = ("run", "--data", "embedded", *QUICK, "--no-cache")
    process = lab(*arguments, root=tmp_path, cwd=tmp_path, preexec_fn=small_files_only)
    assert "the files cannot be written to lab-report" in one_line_error(process)
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("report.html", "old")]


def test_ctrl_c_while_training_leaves_no_checkpoint_and_no_report(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "run", "--data", "embedded", "--epochs", "1000"],
        cwd=tmp_path,
        env=environment(tmp_path / "root"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("lab-report/.writing-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.5)  # well into the training of minutes
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.strip() == "error: interrupted, nothing half done was kept"
    assert not list((tmp_path / "lab-report").iterdir())
    assert not list(tmp_path.glob("root/**/*.safetensors"))


def test_the_meter_prints_theory_observed_and_why_for_every_layer(root, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "nonsense")  # the figure does not depend on what else matplotlib is told
    monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path))
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    process = lab("meter", "pooled", "--plot", "profile.svg", root=root, cwd=tmp_path)
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


def test_circular_shifts_are_measured_too(tmp_path):
    process = lab("meter", *CLOUDS, "--wrap", "--shifts", "3,-5", "--json", root=tmp_path, cwd=tmp_path)
    assert json.loads(process.stdout)["settings"]["mode"] == "wrap"


CLOUDS = ["given", "--images", "fractal", "--size", "28", "28"]
METER_USAGE = {
    "unknown model": (["resnet"], "model must be given, pooled, torchvision:NAME or package.module:callable: 'resnet'"),
    "unknown layer": ([*CLOUDS, "--layer", "conv9"], "the model has conv1, fc1"),
    "shifts no pairs": ([*CLOUDS, "--shifts", "1,0 4"], "shifts must be pairs of whole numbers dy,dx"),
    "shift too large": ([*CLOUDS, "--shifts", "0,28"], "shift must be smaller than the image: |dx|=28, w=28"),
    "size unfit": ([*CLOUDS, "--size", "30", "30"], "the model fails on images of shape (1, 1, 30, 30)"),
    "one image": ([*CLOUDS, "--count", "1"], "at least two"),
    "no images": ([*CLOUDS, "--count", "0"], "count and size must be at least 1: count 0"),
    "enormous seed": ([*CLOUDS, "--seed", str(2**64)], "seed must be at least 0 and below 2 ** 63"),
    "no folder": (["given", "--images", "nowhere"], "images must be mnist, fractal or a folder of pictures: 'nowhere'"),
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
        process = subprocess.run(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            env=environment(trained),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert one_line_error(process) == "error: the text cannot be printed: No space left on device"


def test_a_figure_that_cannot_be_written_is_one_line(trained, tmp_path):
    process = lab("meter", *CLOUDS, "--plot", "no/such/folder.png", root=trained, cwd=tmp_path)
    assert "the figure cannot be written to no/such/folder.png" in one_line_error(process)
