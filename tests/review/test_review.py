"""What every review keeps to: sentences in place of tracebacks, nothing left behind, texts for all that it can say."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import lab
from lab import review
from lab.review.feedback import LEVELS, knowledge
from lab.review.reading import columns
from lab.review.trained import BATCHES, FEW, _over_batches

MISTAKES = knowledge()["mistakes"]
PAGES = Path(lab.__file__).parent.parent / "docs" / "walkthroughs"
FIELDS = {"title", "nudge", "hint", "explanation", "see", "read", "solution"}


def anchors(page):
    """Of a walkthrough's headings, as the site makes them."""
    text = (PAGES / f"{page}.py").read_text(encoding="utf-8")
    titles = (re.sub(r"[^\w\s-]", "", title).strip().lower() for title in re.findall(r"^# ##+ (.*)$", text, re.M))
    return {re.sub(r"[-\s]+", "-", title) for title in titles}


@pytest.fixture(scope="module")
def images(digits):
    return digits.images[:64]


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_has_all_its_texts_and_a_place_to_read(name):
    assert {*MISTAKES[name]} == FIELDS
    page, anchor = MISTAKES[name]["read"].removeprefix("walkthroughs/").split(".html#")
    assert anchor in anchors(page)
    compile(MISTAKES[name]["see"], name, "exec")


def test_every_pattern_names_a_mistake_that_there_is():
    assert {one["mistake"] for one in knowledge()["patterns"]} | {*knowledge()["pairs"]} <= {*MISTAKES}


def test_a_higher_level_says_more(images):
    found = review.pairs(images, images.flip(-1))
    lengths = [len(found.text(level)) for level in LEVELS]
    assert lengths == sorted({*lengths})
    assert MISTAKES["mirrored"]["solution"] in found.solution()
    assert MISTAKES["mirrored"]["solution"] not in found.text("explanation")
    assert found.to_dict()["mistakes"] == ["mirrored"]


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x,
        lambda x: x[:, 0].numpy(),
        lambda x: x.flatten(1),
        lambda x: (x * 255).round().byte(),
        lambda x: list(x),
        lambda x: [(one, 3) for one in x],
        lambda x: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=10),
        lambda x: lab.normalize(x),
        lambda x: 1 - x,
        lambda x: (x - x.mean((1, 2, 3), True)) / x.std((1, 2, 3), keepdim=True),
    ],
    ids=["tensor", "array", "flat", "bytes", "list", "tuples", "loader", "normalised", "inverted", "one by one"],
)
def test_pairs_are_read_in_any_form(form, images):
    moves = torch.randint(-2, 3, (2, 64), generator=torch.Generator().manual_seed(0))
    found = review.pairs(form(images), form(lab.shift(images, *moves)), *moves)
    assert "displacements-differ" not in found.mistakes
    assert [one for one in found.mistakes if one != "labels-differ"] == []


@pytest.mark.parametrize(
    "bad",
    [None, 3, "text", [], torch.zeros(0, 1, 28, 28), torch.zeros(5, 1, 28, 28), torch.full((5, 1, 28, 28), torch.nan)],
    ids=["nothing", "a number", "text", "no list", "no images", "blank images", "nan"],
)
def test_what_cannot_be_read_as_pairs_is_said(bad, images):
    for both in ((bad, images), (images, bad)):
        found = review.pairs(*both)
        assert not found.passed
        assert found.unseen or found.findings


def test_images_of_several_channels_are_told_by_their_shape(images):
    found = review.pairs(images.repeat(1, 3, 1, 1), images.flip(-1).repeat(1, 3, 1, 1))
    assert not found.findings
    assert "one channel" in found.unseen[0]
    assert "(64, 3, 28, 28)" in found.unseen[0]


@pytest.mark.parametrize(
    "f",
    [lambda a, b: None, lambda a, b: 1 / 0, lambda a: a, lambda a, b: "small", lambda a, b: exit(), lambda a, b: {}],
    ids=["nothing", "an error", "one argument", "text", "exit", "an empty dict"],
)
@pytest.mark.parametrize("which", ["equivariance", "invariance"])
def test_a_measure_that_gives_no_number_is_a_finding_and_no_error(f, which):
    found = review.measure(f, which)
    assert found.mistakes in [("fails",), ("returns-nothing",)]
    assert "\n" not in found.findings[0].did


def on_the_overlap(compare):
    """A measure of equivariance: the mean over the pairs of what `compare` says of the parts that both maps have."""

    def measure(a, b, dy, dx):
        both = ((p, q, int(y), int(x)) for p, q, y, x in zip(a, b, dy, dx, strict=True))
        parts = ((p[:, 3 - y : 24 - y, 3 - x : 24 - x], q[:, 3:24, 3:24]) for p, q, y, x in both)
        return sum(float(compare(p, q)) for p, q in parts) / len(a)

    return measure


SOUND = {
    "equivariance": {
        "cosine": on_the_overlap(lambda p, q: 1 - torch.cosine_similarity(p.flatten(), q.flatten(), dim=0)),
        "correlation": on_the_overlap(lambda p, q: 1 - np.corrcoef(p.flatten(), q.flatten())[0, 1]),
        "unexplained variance": on_the_overlap(lambda p, q: (p - q).square().sum() / (q - q.mean()).square().sum()),
        "largest difference": on_the_overlap(lambda p, q: (p - q).abs().max() / q.abs().max()),
        "median difference": on_the_overlap(lambda p, q: (p - q).abs().median() / q.abs().median()),
        "share of positions": on_the_overlap(lambda p, q: (~p.isclose(q, 1e-3, 1e-4)).float().mean()),
        "share of maps": on_the_overlap(lambda p, q: not p.allclose(q, 1e-3, 1e-4)),
    },
    "invariance": {
        "softmax": lambda a, b: (a.softmax(1) - b.softmax(1)).abs().sum(1).mean(),
        "divergence": lambda a, b: torch.nn.functional.kl_div(b.log_softmax(1), a.softmax(1), reduction="batchmean"),
        "cosine": lambda a, b: 1 - torch.cosine_similarity(a, b).mean(),
        "correlation": lambda a, b: 1 - torch.stack([a.flatten(), b.flatten()]).corrcoef()[0, 1],
        "two variances": lambda a, b: torch.stack([a, b]).var(0).mean() / torch.cat([a, b]).var(0).mean(),
        "nearest neighbour": lambda a, b: (torch.cdist(a, b).argmin(1) != torch.arange(len(a))).float().mean(),
        "units above": lambda a, b: ((a > a.quantile(0.9)) != (b > a.quantile(0.9))).float().mean(),
        "with its control": lambda a, b: ((a - b).norm() / a.norm(), (a - b.roll(1, 0)).norm() / a.norm()),
    },
}


@pytest.mark.parametrize(("which", "name"), [(which, name) for which in SOUND for name in SOUND[which]])
def test_a_sound_measure_of_another_kind_is_not_blamed(which, name):
    moves = torch.tensor([[1, -2, 3, 0], [0, 2, -1, 3]]).repeat(1, 16)
    found = review.measure(SOUND[which][name], which, *(moves if which == "equivariance" else ()), control=True)
    assert not found.findings
    assert found.seen


@pytest.mark.parametrize("model", [None, 3, lab.LabModel, torch.nn.Identity(), torch.nn.Linear(3, 2), lab.PooledCNN()])
def test_any_model_is_answered_by_sentences(model):
    for found in (review.network(model), review.training(model)):
        assert found.findings or found.unseen


def test_a_review_leaves_everything_as_it_was(images):
    model = lab.build_model("given", seed=0).train()
    weights, random = [p.clone() for p in model.parameters()], torch.get_rng_state()
    numpy = np.random.get_state()[1].copy()
    review.submission({"model": model, "first": images, "second": images.flip(-1), "activations": _noisy})
    assert model.training
    assert not model._forward_hooks
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert (numpy == np.random.get_state()[1]).all()


def _noisy(model, images):
    torch.rand(3), np.random.rand(3)
    _, conv, fc = model(images)
    return {"conv": conv, "fc": fc}


def test_names_that_are_missing_are_said_with_the_way_out():
    found = {one.task: one for one in review.submission({})}
    assert "second = your_name" in " ".join(found["pairs"].unseen)
    assert not any(one.findings for one in found.values())


def test_labels_beside_images_are_read(images):
    ones, labels = columns([(image, 3) for image in images])
    assert ones.shape == (64, 28, 28)
    assert labels.tolist() == [3] * 64


@pytest.mark.parametrize(("forgotten", "told"), [(0, False), (4, False), (6, True)])
def test_a_network_that_knows_half_of_the_digits_has_learnt(forgotten, told):
    """As one trained on digits at all places may know; see bounds.py."""
    model = lab.build_model("given", seed=0)
    lab.fit(model, lab.load_mnist("embedded").train)
    with torch.no_grad():
        model.fc1.weight[:forgotten] = 0
        model.fc1.bias[:forgotten] = -1e3  # these classes are never named
    assert ("untrained" in review.training(model).mistakes) == told


class BehindRelu(lab.LabModel):
    """Keeps what ReLU returned."""

    def forward(self, x):
        conv = self.conv1(x).relu()
        fc = self.fc1(conv.flatten(1))
        return fc.log_softmax(1), conv.detach().clone(), fc.detach().clone()


def _behind_relu(model, images):
    conv = model.conv1(lab.normalize(images)).relu()
    return {"conv": conv, "fc": model.fc1(conv.flatten(1))}


def _overwritten(model, images):
    conv = model.conv1(lab.normalize(images))
    return {"conv": conv, "fc": model.fc1(conv.relu_().flatten(1))}


@pytest.mark.parametrize(
    ("kind", "activations", "told"),
    [
        (BehindRelu, None, "after-relu"),
        (lab.LabModel, _behind_relu, "after-relu"),
        (lab.LabModel, _overwritten, "spoilt-in-place"),
    ],
)
@pytest.mark.parametrize("form", [torch.Tensor, np.asarray], ids=["tensor", "array"])
def test_what_relu_does_is_seen_where_no_digit_shows_it(kind, activations, told, form, images):
    model = kind()
    with torch.no_grad():
        model.conv1.weight.fill_(0.25)
        model.conv1.bias.fill_(1.0)  # a mean of four pixels, from -0.42 on, and 1: never negative

    def as_tensors(model, images):
        return activations(model, torch.as_tensor(images))

    found = review.network(model, activations and as_tensors, images=form(images[:16]))
    assert found.mistakes == (told,)


def test_without_the_full_set_an_accuracy_is_compared_with_that_on_the_digits_of_the_program(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    digits, model = lab.load_mnist("embedded"), lab.build_model("given", seed=0)
    lab.fit(model, digits.train)
    found = review.submission({"model": model, "mnist": digits, "accuracy": 6 / 7})
    assert found.feedback[1].mistakes == ("not-all-test-images",)


def test_the_accuracy_on_training_digits_is_told_though_that_on_test_digits_is_nearly_the_same():
    digits, model = lab.load_mnist("embedded"), lab.build_model("given", seed=0)
    lab.fit(model, digits.train)
    share = lab.evaluate(model, digits.test).accuracy
    right = lab.predict(model, digits.train.images).argmax(1) == digits.train.labels
    n = 777  # a prime number would do as well: most shares of so many images are no share of 1,000
    hits = round(share * n)
    some = torch.cat([right.nonzero()[:hits, 0], (~right).nonzero()[: n - hits, 0]])
    train = lab.Split(digits.train.images[some], digits.train.labels[some])
    assert review.training(model, hits / n, trains=[train]).mistakes == ("accuracy-on-training-digits",)
    for fine in (share, round(hits / n, 3), hits / n + 2e-5):  # of the test digits, rounded, and a mean over batches
        assert not review.training(model, fine, trains=[train]).findings


@pytest.fixture(scope="module")
def learnt():
    """A network that has learnt, and which of the 2,000 embedded test digits it has right."""
    digits, model = lab.load_mnist("embedded"), lab.build_model("given", seed=0)
    lab.fit(model, digits.train)
    return model, lab.predict(model, digits.test.images).argmax(1) == digits.test.labels


def test_an_accuracy_of_a_few_images_is_told_though_that_on_all_test_digits_is_nearly_the_same(learnt):
    model, right = learnt
    share = right.double().mean().item()
    near = {Fraction(share + step / 10_000).limit_denominator(FEW) for step in range(-18, 19)}
    found = {float(one) for one in near if abs(one - share) < 0.0019 and len(right) % one.denominator}
    told = [one for one in found if not _over_batches(one, share, len(right))]
    assert len(told) > max(1, 0.7 * len(found))
    for one in told:
        assert review.training(model, float(np.float32(one))).mistakes == ("not-all-test-images",), one


@pytest.mark.parametrize("size", BATCHES)
def test_the_mean_over_batches_of_a_usual_size_is_an_accuracy_on_all_test_digits(size, learnt):
    _, right = learnt
    rng = np.random.default_rng(size)
    for _ in range(20):
        batches = [part.float().mean() for part in right[rng.permutation(len(right))].split(size)]
        mean = torch.stack(batches).mean().item()
        assert len(right) % size == 0 or _over_batches(mean, right.double().mean().item(), len(right))


def test_a_mean_over_batches_is_not_taken_for_an_accuracy_of_a_few_images(learnt):
    """Some are fractions as simple as those of a few images; it hangs on how many are right in the last batch."""
    model, right = learnt
    n, hits = len(right), int(right.sum())
    means = {
        Fraction(hits - k, size) / -(-n // size) + Fraction(k, n % size) / -(-n // size)
        for size in BATCHES
        for k in range(n % size + 1)
        if n % size
    }
    simple = [one for one in means if one.denominator <= FEW and n % one.denominator and abs(one - hits / n) < 0.0019]
    assert simple
    for one in simple:
        assert not review.training(model, float(np.float32(one))).findings, one


def test_few_other_numbers_can_be_a_mean_over_batches(learnt):
    """Else an accuracy on something else would be taken for one."""
    _, right = learnt
    share, random = right.double().mean().item(), np.random.default_rng(0)
    taken = [_over_batches(share + by, share, len(right)) for by in random.uniform(-0.002, 0.002, 2_000)]
    assert sum(taken) / len(taken) < 0.1


def test_a_network_is_not_called_dead_because_it_is_given_pixels_of_another_scale(images):
    """Normalised digits are brighter than 1 in places; this convolution returns nothing above 0 for those in [0, 1]."""
    model = lab.build_model("given", seed=0)
    with torch.no_grad():
        model.conv1.weight.fill_(0.25)
        model.conv1.bias.fill_(-1.0)
    model.conv1.requires_grad_(False)
    lab.fit(model, lab.load_mnist("embedded").train)
    assert (model.conv1(images) <= 0).all()
    names = {"model": model, "first": images, "activations": lambda model, images: model(images)}
    known = lab.evaluate(model, lab.load_mnist("embedded").test).accuracy
    assert review.submission(names | {"accuracy": known}).feedback[1].passed
    assert "dead" in review.submission(names | {"accuracy": 0.1}).feedback[1].mistakes
