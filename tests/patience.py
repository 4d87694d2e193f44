"""How many seconds a test waits for others before it says that they hang: none measures time, on no busy machine."""

PROGRAM = 3_600
PAGE = 120
