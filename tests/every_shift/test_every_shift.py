"""The command `lab shiftmap`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "shiftmap.schema.json").read_text(encoding="utf-8"))
COMMAND = str(Path(sys.executable).with_name("lab"))


def run(*arguments, root, cwd):
    environment = os.environ | {"LAB_DATA": str(root), "COLUMNS": "100", "NO_COLOR": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [COMMAND, "shiftmap", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shiftmap")
    return folder, run("--data", "embedded", "--count", 60, "--radius", 3, root=folder / "data", cwd=folder)


def test_the_command_prints_a_table_and_writes_figures(mapped):
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
    jsonschema.validate(found, SCHEMA)
    with pytest.raises(jsonschema.ValidationError, match="is greater than the maximum"):
        jsonschema.validate(found | {"worst_case": 1.01}, SCHEMA)
    assert (found["model"], found["data"], found["images"], found["radius"]) == ("given", "MNIST-10k", 60, 3)
    assert found["accuracy"][3][3] >= 0.8
    assert found["consistency"][3][3] == 1


def test_the_second_time_the_network_comes_from_cache_and_says_the_same(mapped):
    folder, _ = mapped
    options = ("--data", "embedded", "--count", 60, "--radius", 3)
    process = run(*options, "--method", "brute", "--json", root=folder / "data", cwd=folder)
    assert process.stderr == ""
    brute = json.loads(process.stdout)
    jsonschema.validate(brute, SCHEMA)
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
def test_wrong_usage_is_exit_code_2_and_leaves_nothing(arguments, said, mapped, tmp_path):
    folder, _ = mapped
    process = run("--data", "embedded", *arguments, root=folder / "data", cwd=tmp_path)
    assert process.returncode == 2, process.stderr
    assert said in process.stderr
    assert process.stderr.count("\n") == 1
    assert process.stdout == ""
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
