import math
import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from layers import Function
from torch import nn

import lab
from lab.checkpoints import checkpoint_path
from lab.cli import select_device
from lab.errors import DeviceError, InputError, LabWarning, TrainingError
from lab.models import scores
from lab.observing import predict
from lab.training import RECIPES, _batches, _optimizer

QUICK = lab.TrainConfig(epochs=2, batch_size=50)


def trained(split, config=QUICK, **options):
    model = lab.build_model("given", seed=0)
    return model, lab.fit(model, split, config, **options)


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_two_runs_give_the_same_weights_bit_for_bit_and_another_seed_does_not(digits):
    (a, run_a), (b, run_b) = trained(digits), trained(digits)
    other, _ = trained(digits, replace(QUICK, seed=1))
    assert same_weights(a, b)
    assert torch.equal(run_a.loss, run_b.loss)
    assert not same_weights(a, other)


def test_the_surrounding_random_state_and_thread_count_neither_matter_nor_change(digits):
    a, _ = trained(digits)
    torch.manual_seed(123)
    torch.set_num_threads(2)
    try:
        before = torch.random.get_rng_state()
        b, _ = trained(digits)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert same_weights(a, b)


def one_cycle(step, steps, peak):
    """Smith and Topin's cycle: a cosine up from peak / 25 for 30 % of the steps, then one down to nearly 0."""
    start, end, turn, last = peak / 25, peak / 25e4, 0.3 * steps - 1, steps - 1
    low, high, at = (start, peak, step / turn) if step <= turn else (peak, end, (step - turn) / (last - turn))
    return low + (high - low) * (1 - math.cos(math.pi * at)) / 2


def test_training_is_nesterovs_descent_on_the_one_cycle(digits):
    """The oracle: the formulas as published, on the same batches, in another order of rounding."""
    config = lab.TrainConfig(epochs=2, batch_size=50, weight_decay=1e-3)
    model, run = trained(digits, config)
    oracle = lab.build_model("given", seed=0)
    velocities = [torch.zeros_like(p) for p in oracle.parameters()]
    for step, index in enumerate(_batches(len(digits), config)):
        loss = nn.functional.nll_loss(oracle(lab.normalize(digits.images[index]))[0], digits.labels[index])
        assert loss.item() == pytest.approx(run.loss[step].item(), rel=1e-4)
        gradients = torch.autograd.grad(loss, list(oracle.parameters()))
        with torch.no_grad():
            for parameter, velocity, gradient in zip(oracle.parameters(), velocities, gradients, strict=True):
                slope = gradient + 1e-3 * parameter
                velocity.mul_(0.9).add_(slope)
                parameter.sub_(one_cycle(step, 20, 0.03) * (slope + 0.9 * velocity))
    for ours, theirs in zip(model.parameters(), oracle.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)  # 20 steps of float32 rounding


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 1000])
def test_the_learning_rate_peaks_once_and_ends_near_zero(steps):
    optimizer, cycle = _optimizer(lab.LabModel(), lab.TrainConfig(learning_rate=1.0), steps)
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < steps - 1:
            cycle.step()
    assert rates == pytest.approx([one_cycle(step, steps, 1.0) for step in range(steps)])
    assert all(0 < rate <= 1 for rate in rates)
    if steps == 1000:
        peak = rates.index(max(rates))
        assert (rates[0], rates[peak], peak) == (pytest.approx(0.04), pytest.approx(1.0), 299)
        assert rates[:300] == sorted(rates[:300])
        assert rates[299:] == sorted(rates[299:], reverse=True)
        assert rates[-1] < 1e-5


def test_without_momentum_it_is_plain_descent(digits):
    _, run = trained(digits, replace(QUICK, momentum=0.0))
    assert run.loss[-5:].mean() < run.loss[0]


def test_a_trained_network_is_in_evaluation_mode_and_holds_no_gradients(digits, tmp_path):
    for _ in ("trained", "taken from the cache"):
        model, _ = trained(digits, cache=tmp_path)
        assert not any(module.training for module in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())


def test_a_run_records_the_loss_of_every_step_and_it_falls(digits):
    _, run = trained(digits, lab.TrainConfig(epochs=20, batch_size=50))
    assert len(run.loss) == 20 * 10
    assert run.loss[0].item() == pytest.approx(2.3, abs=0.2)  # chance: ln 10
    assert run.loss[-10:].mean() < 1.0
    assert not run.from_cache


def test_the_given_model_learns_real_mnist(mnist, source, trained_once):
    """Trained in this test run, with this code, be it by another test."""
    model = lab.build_model("given", seed=0)
    assert lab.fit(model, mnist.train, cache=trained_once(source)).from_cache
    # one linear layer on MNIST reaches 0.92 (LeCun et al. 1998: 12.0 % to 8.4 % errors); an eighth of the images, less
    assert lab.evaluate(model, mnist.test).accuracy >= {"full": 0.920, "embedded": 0.87}[source]


def test_evaluation_counts_all_images(digits):
    model = lab.build_model("given", seed=0)
    result = lab.evaluate(model, digits)
    correct = sum(
        int(model(lab.normalize(digits.images[i : i + 1]))[0].argmax() == digits.labels[i]) for i in range(500)
    )
    assert result.images == 500
    assert result.accuracy == correct / 500


def test_prediction_does_not_depend_on_the_batch_size(digits):
    model = lab.build_model("pooled", seed=0)
    whole, parts = predict(model, digits.images), predict(model, digits.images, batch_size=7)
    assert torch.allclose(whole, parts, atol=1e-6)  # float32 sums of up to 800 terms: 800 * 6e-8 * |w||x| < 1e-6


@pytest.mark.parametrize(
    "bad",
    [
        *({"epochs": 0}, {"batch_size": 0}, {"threads": 0}, {"max_shift": -1}, {"seed": -1}, {"seed": 2**63}),
        *({"learning_rate": 0.0}, {"learning_rate": float("inf")}, {"learning_rate": float("nan")}),
        *({"momentum": 1.0}, {"momentum": -0.1}),
        *({"seed": 1.0}, {"seed": True}, {"seed": None}, {"epochs": 1.5}, {"batch_size": None}),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked")
def test_a_recipe_that_makes_no_sense_is_refused(bad):
    with pytest.raises(InputError, match=f"{next(iter(bad))} must"):
        lab.TrainConfig(**bad)


def test_no_images_are_refused(digits):
    empty = lab.Split(digits.images[:0], digits.labels[:0])
    with pytest.raises(InputError, match="the split is empty"):
        lab.fit(lab.LabModel(), empty)
    with pytest.raises(InputError, match="the split is empty"):
        lab.evaluate(lab.LabModel(), empty)


@pytest.mark.parametrize("use", [lab.fit, lab.evaluate])
def test_nan_in_the_images_is_refused(digits, use):
    images = digits.images.clone()
    images[3, 0, 5, 5] = torch.nan
    with pytest.raises(InputError, match="images must be finite: 1 of 392000 values"):
        use(lab.LabModel(), lab.Split(images, digits.labels))


def frozen():
    return lab.LabModel().requires_grad_(False)


@pytest.mark.parametrize("make", [nn.Flatten, frozen], ids=["no parameters", "all frozen"])
def test_a_network_with_nothing_to_train_is_refused(digits, tmp_path, make):
    for cache in (None, tmp_path):
        with pytest.raises(InputError, match="training needs weights that can change"):
            lab.fit(make(), digits, QUICK, cache=cache)


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_that_is_no_class_is_refused(digits, tmp_path, label):
    labels = digits.labels.clone()
    labels[300] = label
    for cache in (None, tmp_path):
        with pytest.raises(InputError, match=f"labels must be at least 0 and below 10, the number of classes: {label}"):
            trained(lab.Split(digits.images, labels), cache=cache)


def test_a_network_or_images_without_values_are_refused(digits):
    with pytest.raises(InputError, match="the model must hold weights: those on the meta device have no values"):
        lab.fit(lab.LabModel().to("meta"), digits, QUICK)
    with pytest.raises(InputError, match="images must hold values: a tensor on the meta device has none"):
        trained(lab.Split(digits.images.to("meta"), digits.labels))


def test_divergence_is_an_error_with_its_step_and_recipe(digits):
    with pytest.raises(TrainingError, match=r"the loss must stay finite: nan at step \d+.*learning_rate=1e\+30"):
        trained(digits, lab.TrainConfig(learning_rate=1e30, batch_size=50, epochs=1))


def test_devices_are_checked():
    assert select_device("cpu") == "cpu"
    assert select_device("auto") in ("cpu", "cuda", "mps")
    with pytest.raises(InputError, match="device must be one of auto, cpu, cuda, mps: 'tpu'"):
        select_device("tpu")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(name, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(DeviceError, match=f"device {name} is not there: this machine offers cpu"):
        select_device(name)


# Checkpoints


def test_a_checkpoint_gives_back_the_same_network_without_training(digits, tmp_path):
    a, run = trained(digits, cache=tmp_path)
    b, cached = trained(digits, cache=tmp_path)
    assert cached.from_cache
    assert same_weights(a, b)
    assert torch.equal(run.loss, cached.loss)
    assert run.seconds == cached.seconds
    assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("change", ["config", "data", "weights", "architecture", "code", "version of torch"])
def test_the_checkpoint_of_another_training_is_not_taken(digits, tmp_path, change, monkeypatch):
    trained(digits, cache=tmp_path)
    model, config, split = lab.build_model("given", seed=0), QUICK, digits
    if change == "config":
        config = replace(QUICK, momentum=0.8)
    elif change == "data":
        split = lab.Split(digits.images.flip(0), digits.labels.flip(0))
    elif change == "weights":
        model = lab.build_model("given", seed=1)
    elif change == "architecture":
        model = lab.build_model("pooled", seed=0)
    elif change == "code":
        monkeypatch.setattr("inspect.getsource", lambda _: "class LabModel: another forward")
    else:
        monkeypatch.setattr("torch.__version__", "99")
    assert not lab.fit(model, split, config, cache=tmp_path).from_cache
    assert len(list(tmp_path.iterdir())) == 2


def pool(x):
    return nn.functional.max_pool2d(x, 2)


class Pooling(nn.Module):
    """Flatten and linear, behind a pooling that subclasses, attributes and functions choose."""

    def __init__(self, kind="max", function=None, after=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = nn.Linear(196, 10)
        self.kind, self.after, self.calls, self.act = kind, after, 0, Function(function or nn.functional.relu)

    def pooled(self, x):
        return nn.functional.max_pool2d(x, 2) if self.kind == "max" else nn.functional.avg_pool2d(x, 2)

    def forward(self, x):
        self.calls += 1
        x = self.pooled(x) if self.calls > self.after else pool(x)
        return self.linear(self.act(x).flatten(1))


class Average(Pooling):
    def pooled(self, x):
        return nn.functional.avg_pool2d(x, 2)


def scaled(factor):
    return lambda x: x * factor


def inheriting(base):
    class Net(base):
        pass

    return Net()


WAYS = {
    "attribute": (lambda: Pooling("max"), lambda: Pooling("avg")),
    "attribute that tells only later": (lambda: Pooling("avg", after=10), lambda: Pooling("avg", after=15)),
    "inherited forward": (lambda: inheriting(Pooling), lambda: inheriting(Average)),
    "function": (lambda: Pooling(function=torch.tanh), lambda: Pooling(function=torch.sigmoid)),
    "closure": (lambda: Pooling(function=scaled(1.0)), lambda: Pooling(function=scaled(2.0))),
    "dropout": (
        lambda: nn.Sequential(Pooling(), nn.Dropout(0.1)),
        lambda: nn.Sequential(Pooling(), nn.Dropout(0.2)),
    ),
    "gradient": (lambda: Pooling(function=torch.relu), lambda: Pooling(function=straight_through)),
}


def straight_through(x):
    """As ReLU forwards, as the identity backwards."""
    return x + (x.relu() - x).detach()


@pytest.mark.parametrize("way", WAYS)
def test_a_network_that_computes_something_else_is_not_taken_for_the_one_kept(digits, tmp_path, way):
    one, other = WAYS[way]
    kept = one()
    lab.fit(kept, digits, QUICK, cache=tmp_path)
    assert lab.fit(one(), digits, QUICK, cache=tmp_path).from_cache
    model, expected = other(), other()
    assert not lab.fit(model, digits, QUICK, cache=tmp_path).from_cache
    lab.fit(expected, digits, QUICK)
    assert same_weights(model, expected)


def test_a_helper_function_of_the_module_belongs_to_the_key(digits, tmp_path, monkeypatch):
    lab.fit(Pooling(after=100), digits, QUICK, cache=tmp_path)
    monkeypatch.setitem(globals(), "pool", lambda x: nn.functional.avg_pool2d(x, 2))
    assert not lab.fit(Pooling(after=100), digits, QUICK, cache=tmp_path).from_cache


def test_looking_for_a_checkpoint_leaves_the_network_as_it_was(digits, tmp_path):
    model = Pooling()
    path = checkpoint_path(tmp_path, model, digits, QUICK)
    assert (model.calls, model.training, model.linear.weight.grad) == (0, True, None)
    assert path == checkpoint_path(tmp_path, Pooling(), digits, QUICK)


def test_a_network_that_cannot_be_copied_is_trained_and_not_kept(digits, tmp_path):
    model = lab.build_model("given", seed=0)
    model.lock = threading.Lock()
    with pytest.warns(LabWarning, match="not kept, LabModel cannot be told from others: cannot pickle"):
        run = lab.fit(model, digits, QUICK, cache=tmp_path)
    assert len(run.loss) == 20
    assert list(tmp_path.iterdir()) == []


def test_frozen_weights_and_the_code_of_inner_modules_belong_to_the_key(digits, tmp_path):
    trained(digits, cache=tmp_path)
    frozen = lab.build_model("given", seed=0)
    frozen.conv1.requires_grad_(False)
    before = frozen.conv1.weight.clone()
    assert not lab.fit(frozen, digits, QUICK, cache=tmp_path).from_cache
    assert torch.equal(frozen.conv1.weight, before)


def test_tied_weights_can_be_kept(digits, tmp_path):
    def tied():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Linear(10, 10), nn.Linear(10, 10))
        model[3].weight = model[2].weight
        return model

    first, second = tied(), tied()
    lab.fit(first, digits, QUICK, cache=tmp_path)
    assert lab.fit(second, digits, QUICK, cache=tmp_path).from_cache
    assert same_weights(first, second)


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "not safetensors"])
def test_a_damaged_checkpoint_is_noticed_and_rebuilt(digits, tmp_path, damage):
    a, _ = trained(digits, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(
        {"truncated": content[:-10], "one bit": content, "empty": b"", "not safetensors": b"x" * 500}[damage]
    )
    with pytest.warns(LabWarning, match="training again, the checkpoint .* is damaged"):
        b, run = trained(digits, cache=tmp_path)
    assert not run.from_cache
    assert same_weights(a, b)
    assert trained(digits, cache=tmp_path)[1].from_cache


def test_a_cache_that_cannot_be_written_costs_the_checkpoint_but_not_the_training(digits, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.warns(LabWarning, match="the trained network is not kept"):
        _, run = trained(digits, cache=blocked / "cache")
    assert len(run.loss) == 20


def test_interrupted_training_leaves_no_checkpoint(digits, tmp_path, monkeypatch):
    calls = iter(range(100))

    def interrupt(output):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return scores(output)

    monkeypatch.setattr("lab.training.scores", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trained(digits, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_a_checkpoint_is_written_leaves_none(digits, tmp_path, monkeypatch):
    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("lab.checkpoints.save_file", half)
    with pytest.raises(KeyboardInterrupt):
        trained(digits, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_dropout_is_reproducible_too(digits):
    def run():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(784, 10))
        lab.fit(model, digits, QUICK)
        return model

    torch.manual_seed(1)
    first = run()
    torch.manual_seed(2)
    assert same_weights(first, run())


@pytest.mark.parametrize("seed", [0, 7])
def test_dropout_is_drawn_from_the_seed_of_the_recipe(digits, seed):
    seen = []

    class Noting(lab.LabModel):
        def forward(self, x):
            seen.append(torch.rand(()))
            return super().forward(x)

    lab.fit(Noting(), digits, replace(QUICK, seed=seed, epochs=1))
    assert seen[0] == torch.rand((), generator=torch.Generator().manual_seed(seed))


def test_each_network_has_a_recipe_of_its_own():
    assert RECIPES["given"].epochs == 3
    assert RECIPES["pooled"].epochs == 2


def test_a_bar_is_shown_on_standard_error_on_request_only():
    code = (
        "import lab\n"
        "digits = lab.load_mnist('embedded').test\n"
        "for wanted in (False, True):\n"
        "    lab.fit(lab.LabModel(), digits, lab.TrainConfig(epochs=1, batch_size=500), progress=wanted)\n"
        "    import sys; print('|', file=sys.stderr)\n"
    )
    terminal = os.environ | {"FORCE_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=terminal)
    quiet, shown = done.stderr.split("|")[:2]
    assert done.stdout == ""
    assert "training" not in quiet
    assert "training" in shown


def test_a_model_whose_code_cannot_be_read_is_trained_and_not_kept(digits, tmp_path):
    namespace = {}
    exec("import lab\nclass Typed(lab.LabModel): pass", namespace)
    with pytest.warns(LabWarning, match="not kept, Typed cannot be told from others"):
        run = lab.fit(namespace["Typed"](), digits, QUICK, cache=tmp_path)
    assert len(run.loss) == 20
    assert list(tmp_path.iterdir()) == []
