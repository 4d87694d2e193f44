"""What the benchmarks measure of a process is the process's own."""

import sys

import pytest
from processes import timed

MB = 10**6


def test_the_peak_memory_of_a_process_counts_nothing_that_its_parent_held():
    held = bytearray(b"x" * (400 * MB))
    small = timed(sys.executable, "-c", "print('small')")
    large = timed(sys.executable, "-c", "a = bytearray(b'x' * 200_000_000); del a")
    assert len(held) == 400 * MB
    assert small.stdout == "small\n"
    assert small.peak_gb < 0.1
    assert 0.2 < large.peak_gb < 0.5  # two copies of 200 MB for a moment, freed again before the end


def test_a_process_that_fails_is_not_measured():
    with pytest.raises(AssertionError):
        timed(sys.executable, "-c", "raise SystemExit(3)")
