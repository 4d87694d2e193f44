"""Thirty submissions with one job and with two; like test_speed.py, on an idle machine with two cores."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_speed import report

SUBMISSIONS, TARGET = 30, 1.7
PROGRAM = """
import torch
from torchvision import datasets

data = datasets.MNIST("data", download=True)
x, y = data.data[:4_000].float() / 255, data.targets[:4_000]
layer = torch.nn.Linear(784, 10)
descent = torch.optim.SGD(layer.parameters(), 0.01)
for _ in range(30):
    for batch, labels in zip(x.flatten(1).split(64), y.split(64)):
        descent.zero_grad()
        torch.nn.functional.cross_entropy(layer(batch), labels).backward()
        descent.step()
first, second = x[:500, None], x[:500, None].roll(2, -1)
"""


def seconds(folder: Path, out: Path, jobs: int) -> float:
    command = [Path(sys.executable).with_name("lab"), "review", folder, "--out", out, "--jobs", str(jobs), "--csv"]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two jobs need two cores")
def test_two_jobs_are_nearly_twice_as_fast_as_one(tmp_path):
    folder = tmp_path / "class"
    folder.mkdir()
    for i in range(SUBMISSIONS):
        (folder / f"{i:02}.py").write_text(f"{PROGRAM}\nnumber = {i}\n")
    one, two = (seconds(folder, tmp_path / f"out{jobs}", jobs) for jobs in (1, 2))
    report("review: two jobs beside one, thirty submissions", one / two, f">= {TARGET}")
    assert one / two >= TARGET, f"one job {one:.0f} s, two jobs {two:.0f} s: ratio {one / two:.2f}"
