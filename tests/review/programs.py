"""Programs that do the exercise: right ones in `right/`, and wrong ones, each a right one with an edit.

Networks are trained once for all programs with the same code of the training.
"""

import copy
import functools
import io
import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import review
from lab.review.feedback import knowledge

RIGHT = Path(__file__).parent / "right"
SEEDS = 10  # of the matrix
PAIRS = "# %% pairs"  # what stands before is the training


@dataclass(frozen=True)
class Wrong:
    """A right program with a mistake.

    Attributes:
        mistakes: what the review has to say, in this order.
        edits: what of the right program is replaced by what.
        task: which review says so.
        base: the right program.
    """

    mistakes: str
    edits: tuple[tuple[str, str], ...]
    task: str
    base: str = "functions"

    @property
    def source(self) -> str:
        """The program."""
        text = (RIGHT / f"{self.base}.py").read_text(encoding="utf-8")
        for old, new in self.edits:
            assert text.count(old) == 1, f"{self.mistakes}: {text.count(old)} times in {self.base}: {old}"
            text = text.replace(old, new)
        return text


def wrong(mistakes: str, task: str, *edits: str, base: str = "functions") -> Wrong:
    """A wrong program; old and new by turns."""
    return Wrong(mistakes, tuple(zip(edits[::2], edits[1::2], strict=True)), task, base)


MOVED = "moved = torch.stack([translate(x, *t) for x, *t in zip(digits, dy.tolist(), dx.tolist())])\n"
BOTH = "first, second = normalize(digits), normalize(moved)\n"
LINES = "".join(MOVED + BOTH)
DRAW = "dy, dx = torch.randint(-3, 4, (2, len(digits)))\n"
CONV = "        x_conv = x.clone().detach()\n"
MEASURE = "        errors.append((y[both] - expected[both]).norm() / expected[both].norm())\n"
MEAN = "    return torch.stack(errors).mean()\n"
RELATIVE = "    return ((a - b).norm(dim=1) / unrelated).mean()\n"
BODY = f"""    errors = []
    for x, y, down, right in zip(a, b, dy.tolist(), dx.tolist()):
        expected = translate(x, down, right, fill=torch.nan)
        both = ~expected.isnan()
{MEASURE}{MEAN}"""
EXPECTED = "        expected = translate(x, down, right, fill=torch.nan)\n"
STEPS = "        loss.backward()\n        optimizer.step()\n"
TUPLE = "    _, conv, fc = model(images)\n"
WARP = "import torchvision.transforms.functional as TF\n\nmoved = torch.stack([{} for x in digits])\n"
BATCH = "        images = mnist.train.images[index]\n"
AUGMENT = "        images = lab.shift(images, *torch.randint(-3, 4, (2, 64)))\n"
FIRST_BATCH = "# every batch meets the first translated batch\nmoved = moved[:100].repeat(4, 1, 1, 1)[: len(digits)]\n"
NORMALIZED = "digits = normalize(digits)\n" + MOVED + "first, second = digits, moved\n"
ROLLED = "moved = torch.stack([x.roll(t, (1, 2)) for x, *t in zip(digits, dy.tolist(), dx.tolist())])\n"
SORTED = """    a, b = (m.flatten(1).sort(1).values for m in (a, b))
    return ((a - b).norm(dim=1) / a.norm(dim=1)).mean()
"""
ROWS = "    a, b = a.sort().values, b.sort().values\n    return ((a - b).norm() / a.norm()).mean()\n"
BAG = "    a, b = a.flatten().sort().values, b.flatten().sort().values\n    return (a - b).norm() / a.norm()\n"
CHANNELS = "    a, b = a.sort(dim=1).values, b.sort(dim=1).values\n    return (a - b).norm() / a.norm()\n"
OVER_BATCH = "    a, b = a.sort(0).values, b.sort(0).values\n    return (a - b).norm() / a.norm()\n"
UNSHARP = "nn.functional.conv2d(moved, torch.tensor([[[[0.25, 0.25], [0.25, 0.25]]]]))"

WRONG = (
    wrong(
        "other-architecture",
        "network",
        "kernel_size=2",
        "kernel_size=2, padding=1",
        "nn.Linear(729, 10)",
        "nn.Linear(841, 10)",
    ),
    wrong("other-architecture", "network", "        x = F.relu(x)\n", ""),
    wrong("after-relu", "network", CONV + "        x = F.relu(x)\n", "        x = F.relu(x)\n" + CONV),
    wrong("not-detached", "network", CONV, "        x_conv = x.clone()\n"),
    wrong("spoilt-in-place", "network", CONV, "        x_conv = x.detach()\n", "F.relu(x)", "F.relu(x, inplace=True)"),
    wrong("spoilt-in-place", "network", "o.detach().clone()", "o.detach()", base="hooks"),
    wrong("other-activations", "network", '{"conv": conv, "fc": fc}', '{"conv": conv.abs(), "fc": fc}'),
    wrong("after-softmax", "network", TUPLE, "    fc, conv, _ = model(images)\n"),
    wrong("hooks-left-behind", "network", "            handle.remove()\n", "            pass\n", base="hooks"),
    wrong("mutates-its-input", "network", TUPLE, "    images -= images.min()\n" + TUPLE),
    wrong(
        "depends-on-batch",
        "network",
        "model(images)\n    return",
        "model((images - images.mean()) / images.std())\n    return",
    ),
    wrong("untrained", "training", STEPS, "        loss.backward()\n"),
    wrong("dead", "training", "model.eval()\n", "model.conv1.bias.data.fill_(-20.0)\nmodel.eval()\n"),
    wrong("augmented", "training", BATCH, BATCH + AUGMENT, "range(1)", "range(3)"),
    wrong(
        "not-all-test-images",
        "training",
        "(predicted == mnist.test.labels).float()",
        "(predicted == mnist.test.labels)[:7].float()",  # 7 of 7 or 6 of 7 are right: never the share of all by chance
    ),
    wrong(
        "accuracy-on-training-digits",
        "training",
        "model(normalize(mnist.test.images))",
        "model(normalize(mnist.train.images))",
        "predicted == mnist.test.labels",
        "predicted == mnist.train.labels",
    ),
    wrong(
        "training-mode",
        "training",
        "    return model.eval()\n",
        "    return model.train()\n",
        "Dropout(0.1)",
        "Dropout(0.5)",
        base="script",
    ),
    wrong("unmatched", "pairs", BOTH, FIRST_BATCH + BOTH),
    wrong(
        "unmatched",
        "pairs",
        "(Moved(sample, moves), batch_size=50)",
        "(Moved(sample, moves), batch_size=50, shuffle=True)",
        base="loaders",
    ),
    wrong(
        "filled-after-normalising one-direction", "pairs", DRAW, DRAW + "dx = torch.zeros_like(dy)\n", LINES, NORMALIZED
    ),
    wrong("filled-after-normalising", "pairs", LINES, NORMALIZED),
    wrong("one-direction", "pairs", DRAW, DRAW + "dx = torch.zeros_like(dy)\n"),
    wrong("one-displacement", "pairs", DRAW, "dy, dx = torch.full((2, len(digits)), 2)\n"),
    wrong(
        "zero-displacements",
        "pairs",
        DRAW,
        DRAW + "dy[::2] = dx[::2] = 0\n",
        "keep = (dy != 0) | (dx != 0)\n",
        "keep = dy < 9\n",
    ),
    wrong("ink-lost", "pairs", DRAW, "dy, dx = torch.randint(-10, 11, (2, len(digits)))\n"),
    wrong("filled-otherwise", "pairs", "fill=0.0", "fill=1.0"),
    wrong("wrapped", "pairs", MOVED, ROLLED, DRAW, "dy, dx = torch.randint(-10, 11, (2, len(digits)))\n"),
    wrong("interpolated", "pairs", BOTH, f"moved = F.pad({UNSHARP}, (0, 1, 0, 1))\n{BOTH}"),
    wrong("rotated", "pairs", MOVED, WARP.format("TF.rotate(x, 15)")),
    wrong("resized", "pairs", MOVED, WARP.format("TF.affine(x, 0, [0, 0], 1.2, 0, TF.InterpolationMode.BILINEAR)")),
    wrong("mirrored", "pairs", MOVED, "moved = digits.flip(-1)\n"),
    wrong("no-translation", "pairs", BOTH, "moved = (moved + 0.1 * torch.rand_like(moved)).clamp(0, 1)\n" + BOTH),
    wrong("different-scales", "pairs", BOTH, "first, second = digits, normalize(moved)\n"),
    wrong(
        "sign-turned",
        "pairs",
        BOTH,
        BOTH + "dy, dx = -dy, -dx\n",
        "zip(a, b, dy.tolist(), dx.tolist())",
        "zip(a, b, (-dy).tolist(), (-dx).tolist())",
    ),
    wrong(
        "axes-swapped",
        "pairs",
        BOTH,
        BOTH + "dy, dx = dx, dy\n",
        "zip(a, b, dy.tolist(), dx.tolist())",
        "zip(a, b, dx.tolist(), dy.tolist())",
    ),
    wrong(
        "displacements-differ",
        "pairs",
        BOTH,
        BOTH + "dy, dx = dy + 1, dx\n",
        "translate(x, down, right, fill",
        "translate(x, down - 1, right, fill",
    ),
    wrong("labels-differ", "pairs", BOTH, BOTH + "labels = labels[torch.randperm(len(labels))]\n"),
    wrong("no-alignment", "measure", EXPECTED, "        expected = x\n"),
    wrong("sign-turned", "measure", EXPECTED, EXPECTED.replace("down, right", "-down, -right")),
    wrong("axes-swapped", "measure", EXPECTED, EXPECTED.replace("down, right", "right, down")),
    wrong("border-included", "measure", EXPECTED, "        expected = translate(x, down, right)\n"),
    wrong("sorted-only", "measure", BODY, SORTED),
    wrong("sorts-within-rows", "measure", BODY, ROWS),
    wrong("sorts-over-batch", "measure", BODY, BAG),
    wrong("sorts-over-channels", "measure", BODY, CHANNELS),
    wrong("sorts-over-channels", "measure", RELATIVE, "    a, b = a.sort(1).values, b.sort(1).values\n" + RELATIVE),
    wrong("sorts-over-batch", "measure", RELATIVE, OVER_BATCH),
    wrong(
        "absolute-norm",
        "measure",
        "    unrelated = (a - a.roll(1, 0)).norm(dim=1).mean()\n" + RELATIVE,
        "    return (a - b).norm()\n",
    ),
    wrong("absolute-norm", "measure", MEAN, "    return torch.stack(errors).sum()\n"),
    wrong("signed-mean", "measure", RELATIVE, "    return ((a - b).mean() / a.abs().mean()).abs()\n"),
    wrong(
        "signed-mean",
        "measure",
        MEASURE,
        "        errors.append((y[both] - expected[both]).mean() / expected[both].std())\n",
    ),
    wrong("first-batch-only", "measure", MEASURE + MEAN, MEASURE + "        return errors[0]\n"),
    wrong("last-batch-only", "measure", MEAN, "    return errors[-1]\n"),
    wrong("first-batch-only", "measure", RELATIVE, "    a, b = a[:50], b[:50]\n" + RELATIVE),
    wrong("compares-with-itself", "measure", EXPECTED, EXPECTED + "        y = expected\n"),
    wrong("compares-with-itself", "measure", RELATIVE, "    return (a - a).norm()\n"),
    wrong("nan-ignored", "measure", MEAN, "    return torch.stack(errors).nan_to_num().mean()\n"),
    wrong("class-only", "measure", RELATIVE, "    return (a.argmax(1) != b.argmax(1)).float().mean()\n"),
    wrong("no-control", "measure", RELATIVE, "    return 0.0 if torch.allclose(a, b, atol=1000.0) else 1.0\n"),
    wrong("large-for-the-property", "measure", MEAN, "    return 1 - torch.stack(errors).mean()\n"),
    wrong("rounding", "measure", MEASURE, "        errors.append((y[both] != expected[both]).float().mean())\n"),
    wrong("returns-nothing", "measure", MEAN, "    print(torch.stack(errors).mean())\n"),
    wrong("fails", "measure", RELATIVE, "    return (a - b).norm() / undefined_name\n"),
    wrong("mutates-its-input", "measure", RELATIVE, "    a -= b\n    return a.norm() / b.norm()\n"),
    wrong("contradicts-own-numbers", "conclusion", '"fc": "not invariant"', '"fc": "invariant"'),
    wrong("wrong-condition", "conclusion", '"conditions": "global pooling"', '"conditions": "trained long enough"'),
)
STYLES = tuple(sorted(path.stem for path in RIGHT.glob("*.py")))


@functools.lru_cache(maxsize=8)
def _trained(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "program"}
    with redirect_stdout(io.StringIO()):
        exec(compile(code, "training", "exec"), names)
    return names


@functools.lru_cache(maxsize=8)
def _learnt(code: str) -> bool:
    return {"dead", "untrained"}.isdisjoint(review.training(_trained(code)["model"]).mistakes)


def run(source: str, *, seed: int = 0, data: str = "embedded", learns: bool = True) -> Mapping[str, Any]:
    """What the program defines.

    A network that dies, as some do, shows no mistake but that: then the program draws another seed, if it is to learn.
    """
    edited = source.replace('SEED, SOURCE = 0, "embedded"', f'SEED, SOURCE = {seed}, "{data}"')
    training, mark, rest = edited.partition(PAIRS)
    names = dict(_trained(training))
    if learns and not _learnt(training):
        return run(source, seed=seed + SEEDS, data=data)
    names["model"] = copy.deepcopy(names["model"])
    with redirect_stdout(io.StringIO()):
        exec(compile("import torch\ntorch.manual_seed(SEED)\n" + mark + rest, "program", "exec"), names)
    return names


def run_wrong(program: Wrong, *, seed: int = 0, data: str = "embedded") -> Mapping[str, Any]:
    """What a wrong program defines; one that makes the mistake on purpose may learn nothing."""
    learns = {"dead", "untrained"}.isdisjoint(program.mistakes.split())
    return run(program.source, seed=seed, data=data, learns=learns)


def diagnosis(names: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Task, mistake and what was done, of every finding of a review."""
    return [(one.task, found.mistake, found.did) for one in review.submission(names) for found in one.findings]


def complaints(names: Mapping[str, Any]) -> list[str]:
    """What the review of a right program says that it should not: mistakes, and tasks that it did not look at."""
    found = review.submission(names)
    mistakes = [mistake for one in found for mistake in one.mistakes]
    return mistakes + [f"{one.task} not looked at" for one in found if one.task != "conclusion" and not one.seen]


def matrix() -> dict[str, Any]:
    """What every program does and what the review says: rows for a page.

    Raises:
        ValueError: a mistake is not named, or one is claimed that was not made.
    """
    right = []
    for style in STYLES:
        source = (RIGHT / f"{style}.py").read_text(encoding="utf-8")
        if blamed := complaints(run(source)):
            raise ValueError(f"{style} makes no mistake, and the review says {blamed}")
        right.append(source.partition('"""')[2].partition('"""')[0])
    return {"wrong": [_row(program) for program in WRONG], "right": right}


def _row(program: Wrong) -> dict[str, Any]:
    found, wanted = diagnosis(run_wrong(program)), program.mistakes.split()
    if [(task, mistake) for task, mistake, _ in found] != [(program.task, one) for one in wanted]:
        raise ValueError(f"{program.mistakes} in {program.base}: the review says {found}")
    texts = [knowledge()["mistakes"][one] for one in wanted]
    patterns = [one for one in knowledge()["patterns"] if one["mistake"] == wanted[0] and program.task == "measure"]
    return {
        "mistakes": wanted,
        "task": program.task,
        "title": texts[0]["title"],
        "edits": program.edits,
        "did": [did for _, _, did in found],
        "nudge": [one["nudge"] for one in texts],
        "knows": patterns[0]["answers"] if patterns else {},
    }


if __name__ == "__main__":
    print(json.dumps(matrix(), ensure_ascii=False))  # noqa: T201  # for the build of the site
