"""A whole process, measured: wall time and peak memory, its own."""

import re
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

SAMPLE = 0.01  # seconds between two looks


@dataclass(frozen=True)
class Finished:
    """A process that has ended well; memory in GB."""

    seconds: float
    peak_gb: float
    stdout: str


class Peak(threading.Thread):
    """Looks at the kernel's high-water mark of a process for as long as it lives.

    The count that `wait4` hands over at the end (`ru_maxrss`) is no measure of a child: it begins with what the parent
    held when it forked. `VmHWM` belongs to the memory of the program that runs now, and starts anew when it is loaded.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.status = Path(f"/proc/{pid}/status")
        self.kib = 0

    def run(self) -> None:
        while (seen := self._seen()) is not None:
            self.kib = max(self.kib, seen)
            time.sleep(SAMPLE)

    def _seen(self) -> int | None:
        try:
            found = re.search(r"^VmHWM:\s+(\d+) kB", self.status.read_text(), re.M)
        except (FileNotFoundError, ProcessLookupError):
            return None
        return int(found[1]) if found else None  # a process that has ended has no memory


def timed(*command, **options) -> Finished:
    """Run a whole process: wall time, peak memory, what it printed. Linux counts the memory; elsewhere it is nan."""
    start = time.perf_counter()
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True, **options) as process:
        peak = Peak(process.pid)
        peak.start()
        stdout = process.stdout.read()
    seconds = time.perf_counter() - start
    peak.join()
    assert process.returncode == 0
    return Finished(seconds, peak.kib * 1024 / 1e9 if peak.kib else float("nan"), stdout)
