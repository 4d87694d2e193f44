"""How many seconds a test waits for others before it says that they hang: none measures time, on no busy machine.

And what a program needs that shall end before.
"""

import signal

PROGRAM = 3_600
PAGE = 120


def heeds_interrupts() -> None:
    """In a new process: Ctrl-C ends it, also where the tests run in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
