import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lab
from lab.errors import InputError


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.conv(self.relu(self.conv(x))))


class Structured(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = Outputs("tuple")
        self.named = Outputs("dict")

    def forward(self, x):
        return self.named(self.pair(x)[0])["double"]


class Outputs(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        return (x + 1, (x + 2, "not a tensor")) if self.kind == "tuple" else {"double": 2 * x, "none": None}


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout()

    def forward(self, x):
        return F.dropout(self.drop(self.norm(x)))  # the functional one draws in evaluation mode too


@pytest.fixture
def x():
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5


def test_the_given_models_layers_equal_the_activations_that_it_returns(digits):
    model, images = lab.build_model("given", seed=0), lab.normalize(digits.images)
    found = lab.activations(model, images)
    _, after_conv, after_fc = model(images)
    assert list(found) == ["conv1", "fc1"]
    # batches of 256 and of 500: sums of up to 729 float32 terms, 729 * 6e-8 relative
    assert torch.allclose(found["conv1"], after_conv, atol=1e-6)
    assert torch.allclose(found["fc1"], after_fc, atol=1e-5)


def test_every_layer_is_recorded_in_the_order_in_which_it_ran():
    found = lab.activations(lab.PooledCNN(), torch.rand(2, 1, 28, 28))
    assert {name: tuple(a.shape) for name, a in found.items()} == {
        **{"conv1": (2, 16, 26, 26), "relu1": (2, 16, 26, 26), "pool1": (2, 16, 13, 13)},
        **{"conv2": (2, 32, 11, 11), "relu2": (2, 32, 11, 11), "pool2": (2, 32, 5, 5)},
        **{"fc1": (2, 64), "relu3": (2, 64), "fc2": (2, 10)},
    }


def test_an_in_place_operation_does_not_change_what_was_recorded_before_it(x):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True))
    found = lab.activations(net, x)
    assert (found["0"] < 0).any(), "the ReLU's zeros were written into the convolution's record"
    assert torch.equal(found["1"], found["0"].clamp(min=0))


def test_each_call_of_a_reused_module_is_kept_apart(x):
    net = Reused()
    found = lab.activations(net, x, batch_size=2)
    assert list(found) == ["conv", "relu", "conv#2", "relu#2"]
    with torch.no_grad():
        once = net.conv(x)
        twice = net.conv(F.relu(once))
    assert torch.allclose(found["conv"], once, atol=1e-6)  # sums of 9 float32 terms
    assert torch.allclose(found["conv#2"], twice, atol=1e-6)


def test_tensors_in_tuples_and_dicts_get_names_of_their_own(x):
    found = lab.activations(Structured(), x)
    assert list(found) == ["pair[0]", "pair[1][0]", "named[double]"]
    assert torch.equal(found["pair[1][0]"], x + 2)
    assert torch.equal(found["named[double]"], 2 * (x + 1))


def test_layers_can_be_chosen_also_the_network_itself_and_a_block(x):
    net = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.Flatten())
    assert list(lab.activations(net, x)) == ["0.0", "0.1", "1"]
    assert list(lab.activations(net, x, layers=["", "0"])) == ["0", ""]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_batches_make_no_difference(x, batch_size):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten())
    whole, parts = lab.activations(net, x), lab.activations(net, x, batch_size=batch_size)
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)  # 9 float32 terms


def test_the_model_its_mode_and_the_random_state_are_untouched():
    net, x = Noisy(), torch.rand(5, 4)
    net.drop.eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    before = torch.random.get_rng_state()
    lab.activations(net, x)
    assert torch.equal(before, torch.random.get_rng_state())
    assert [m.training for m in net.modules()] == [True, True, False]
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())
    assert all(p.grad is None for p in net.parameters())


OBSERVERS = {
    "activations": lambda net, x: list(lab.activations(net, x).values()),
    "predict": lambda net, x: [lab.predict(net, x)],
    "meter": lambda net, x: [torch.tensor(row.invariance) for row in lab.meter(net, x, [(1, 0)]).rows],
    "shift_map": lambda net, x: [lab.shift_map(net, x, radius=1)],
}


@pytest.mark.parametrize("observe", OBSERVERS.values(), ids=OBSERVERS)
def test_everything_is_observed_in_evaluation_mode_whatever_mode_the_model_is_in(observe):
    """Dropout and the batch's own statistics would give other numbers in training mode."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(72, 3))
    x = torch.zeros(4, 1, 8, 8)
    x[:, :, 2:6, 2:6] = torch.rand(4, 1, 4, 4)
    found = {}
    for mode in (True, False):
        net.train(mode)
        found[mode] = observe(net, x)
        assert {module.training for module in net.modules()} == {mode}, "left as it was"
    for training, evaluation in zip(found[True], found[False], strict=True):
        assert torch.equal(training.nan_to_num(-1), evaluation.nan_to_num(-1))


def test_hooks_are_removed_and_modes_restored_when_the_model_raises():
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Linear(7, 1))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        lab.activations(net, torch.rand(1, 1, 8, 8))
    assert not any(m._forward_hooks for m in net.modules())
    assert net.training


def test_activations_carry_no_gradient(x):
    assert not any(a.requires_grad for a in lab.activations(Reused(), x).values())


def test_nan_passes_through_for_it_is_used_to_trace(x):
    x[0, 0, 0, 0] = torch.nan
    assert lab.activations(nn.Sequential(nn.Conv2d(1, 1, 3)), x)["0"].isnan().sum() == 1


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (["conv3"], "no layer 'conv3': the model has conv1, relu1, pool1"),
        ([], "no layer : the model has conv1"),
    ],
)
def test_an_unknown_layer_is_refused_with_those_that_there_are(layers, said):
    with pytest.raises(InputError, match=said):
        lab.activations(lab.PooledCNN(), torch.rand(1, 1, 28, 28), layers=layers)


def test_a_layer_that_does_not_run_is_left_out_unless_it_was_asked_for(x):
    net = Reused()
    net.unused = nn.Identity()
    assert "unused" not in lab.activations(net, x)
    with pytest.raises(InputError, match="layer did not run, or returned no tensor: unused"):
        lab.activations(net, x, layers=["conv", "unused"])


def test_a_layer_that_runs_for_some_batches_only_is_refused(x):
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            return self.layer(x) if len(x) == 2 else x

    with pytest.raises(InputError, match="layer ran for some batches only: layer; raise batch_size to 5"):
        lab.activations(Sometimes(), x, batch_size=2)


@pytest.mark.parametrize("bad", [torch.zeros(0, 1, 8, 8), torch.tensor(1.0)], ids=["empty", "scalar"])
def test_no_input_is_refused(bad):
    with pytest.raises(InputError, match="there must be at least one input"):
        lab.activations(Reused(), bad)


def test_a_batch_size_below_one_is_refused(x):
    with pytest.raises(InputError, match="batch_size must be at least 1: 0"):
        lab.activations(Reused(), x, batch_size=0)


def test_an_output_without_the_batch_first_is_refused(x):
    class Total(nn.Module):
        def forward(self, x):
            return x.sum()

    with pytest.raises(InputError, match=r"first dimension must be the batch: '0' has shape \(\) for 5 inputs"):
        lab.activations(nn.Sequential(Total()), x, layers=["0"])
    with pytest.raises(InputError, match="no layer's first dimension is the batch: 0"):
        lab.activations(nn.Sequential(Total()), x)
