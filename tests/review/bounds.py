"""Measures anew what `bounds` in lab/review/mistakes.toml rests on: `python tests/review/bounds.py [SEEDS [RECIPE]]`.

For each recipe and data set: the least and the largest accuracy over the seeds, and that on digits moved by 3 pixels.
"""

import sys

import torch
import torch.nn.functional as F

import lab
from lab.review.trained import DISTANCE, SAMPLE, USUAL, hits, moved_hits

RECIPES = {  # optimiser, steps, scale of the images, pixels of augmentation
    "untrained": ("sgd", 0, 1, 0),
    "untrained, pixels in [0, 1]": ("sgd", 0, 0, 0),
    "SGD 0.01, 938 steps": ("sgd", 938, 1, 0),
    "SGD 0.01, 938 steps, pixels in [0, 1]": ("sgd", 938, 0, 0),
    "SGD 0.01 with momentum 0.9, 375 steps": ("momentum", 375, 1, 0),
    "Adam, 375 steps": ("adam", 375, 1, 0),
    "Adam, 2,000 steps": ("adam", 2000, 1, 0),
    "Adam, 8,000 steps": ("adam", 8000, 1, 0),
    "Adam, 938 steps, pixels in [0, 1]": ("adam", 938, 0, 0),
    "Adam, 938 steps, augmented by 1 px": ("adam", 938, 1, 1),
    "Adam, 938 steps, augmented by 2 px": ("adam", 938, 1, 2),
    "Adam, 938 steps, augmented by 4 px": ("adam", 938, 1, 4),
}


def train(split: lab.Split, optimiser: str, steps: int, scale: int, by: int, seed: int) -> torch.nn.Module:
    """A given network after some steps on batches of 64."""
    torch.manual_seed(seed)
    net, (factor, offset) = lab.LabModel(), USUAL[scale]
    rule = torch.optim.Adam if optimiser == "adam" else torch.optim.SGD
    step = rule(
        net.parameters(),
        **{"adam": {"lr": 1e-3}, "momentum": {"lr": 0.01, "momentum": 0.9}}.get(optimiser, {"lr": 0.01}),
    )
    for _ in range(steps):
        index = torch.randint(len(split), (64,))
        dy, dx = torch.randint(-by, by + 1, (2, 64))
        images = lab.shift(split.images[index], dy, dx) if by else split.images[index]
        loss = F.nll_loss(net(images * factor + offset)[0], split.labels[index])
        step.zero_grad()
        loss.backward()
        step.step()
    return net


def main(seeds: int, only: str = "") -> None:
    """Print a row for each recipe and data set."""
    torch.set_num_threads(1)
    digits = lab.load_mnist("embedded").test
    sample = digits.sample(SAMPLE, seed=0)
    for source in ("embedded", "full"):
        train_split = lab.load_mnist(source).train
        for name, recipe in ((name, recipe) for name, recipe in RECIPES.items() if only in name):
            found = []
            for seed in range(seeds):
                net = train(train_split, *recipe, seed).eval()
                scale = USUAL[recipe[2]]
                with torch.no_grad():
                    found.append((hits(net, digits, scale), moved_hits(net, sample, scale)))
            accuracy, moved = zip(*found, strict=True)
            kept = [after / before for before, after in found]
            print(  # noqa: T201  # it is a script
                f"{source:8} {name:40} accuracy {min(accuracy):.3f}-{max(accuracy):.3f}"
                f"  moved by {DISTANCE} px {min(moved):.3f}-{max(moved):.3f}, kept {min(kept):.3f}-{max(kept):.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, *sys.argv[2:])
