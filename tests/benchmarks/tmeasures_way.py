"""The way of `tmeasures` (PyPI, AGPL-3.0): how much a unit varies with the shift, over how much with the image.

Run as a script by a Python that has the package, with a folder and the name of a way:

- `documented`: as its documentation does it: torchvision's data set, its own affine transformations, batches of 128.
- `memory`: the same with the images in memory, so that nothing is read or normalised again and again.
- `exact`: the same with the lab's translations, bit for bit; its own interpolate, and continue the edge.

`task.pt` in the folder says what to measure; `found.pt` is what was found. Prints one line of JSON.
"""

import json
import sys
import time
from pathlib import Path

import tmeasures as tm
import torch
from tmeasures.pytorch.transformations.affine import AffineGenerator
from tmeasures.transformations.parameters import ConstantParameters
from torch.utils.data import Dataset, Subset
from torchvision import datasets, transforms

import lab
from lab.data import BACKGROUND, MEAN, STD


class InMemory(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


class MNIST(datasets.MNIST):
    """Without labels; torchvision looks for the files in a folder that is called like the class."""

    def __getitem__(self, i):
        return super().__getitem__(i)[0]


class Translations(tm.pytorch.PyTorchTransformationSet):
    def __init__(self, shifts):
        super().__init__([lambda x, t=t: lab.shift(x, *t, background=BACKGROUND) for t in shifts])


def main(folder: Path, way: str) -> None:
    task = torch.load(folder / "task.pt")
    height, width = task["images"].shape[-2:]
    model = lab.build_model("pooled", seed=0).eval()
    model.load_state_dict(task["state"])
    images, translations = InMemory(task["images"]), Translations(task["shifts"])
    if way != "exact":  # it says where a pixel comes from, x first, as a share of the image
        parameters = ConstantParameters([(-dx / width, -dy / height) for dy, dx in task["shifts"]])
        translations = AffineGenerator(t=parameters)
    if way == "documented":
        prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
        images = Subset(MNIST(task["root"], train=False, transform=prepare), range(len(images)))
    options = tm.pytorch.PyTorchMeasureOptions(batch_size=128, num_workers=0, verbose=False)
    observed = tm.pytorch.AutoActivationsModule(model)
    start = time.perf_counter(), time.process_time()
    result = tm.pytorch.NormalizedVarianceInvariance().eval(images, translations, observed, options)
    cost = time.perf_counter() - start[0], time.process_time() - start[1]
    names = [name.removeprefix("/") for name in result.layer_names]
    torch.save(dict(zip(names, result.layers, strict=True)), folder / "found.pt")
    json.dump({"cost": cost}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
