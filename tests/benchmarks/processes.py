"""A whole process, measured: wall time and peak memory, its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

KIB_OR_BYTES = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss, in bytes

# Starts the command and writes what it took to the descriptor that its first argument names.
LAUNCHER = """
import json, os, subprocess, sys, time

start = time.perf_counter()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
took = {"seconds": time.perf_counter() - start, "peak": usage.ru_maxrss, "code": os.waitstatus_to_exitcode(status)}
os.write(int(sys.argv[1]), json.dumps(took).encode())
"""


@dataclass(frozen=True)
class Finished:
    """A process that has ended well; memory in GB."""

    seconds: float
    peak_gb: float
    stdout: str


def timed(*command, **options) -> Finished:
    """Run a whole process: wall time, peak memory, what it printed.

    The kernel's count of a process (`ru_maxrss`) begins with what its parent held when it forked. A small Python
    therefore stands between: no program of ours needs less than the ten megabytes that it holds.
    """
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as answer:
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(writing), *map(str, command)]
        ended = subprocess.run(launcher, stdout=subprocess.PIPE, text=True, check=True, pass_fds=[writing], **options)
        os.close(writing)
        took = json.load(answer)
    assert took["code"] == 0
    return Finished(took["seconds"], took["peak"] * KIB_OR_BYTES / 1e9, ended.stdout)
