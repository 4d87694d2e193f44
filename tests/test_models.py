import pytest
import torch
import torch.nn.functional as F

import lab
from lab.errors import InputError, check_labels
from lab.models import device_of
from lab.observing import evaluating


def test_the_given_model_has_the_parameters_that_the_exercise_gives_it():
    shapes = {name: tuple(p.shape) for name, p in lab.LabModel().named_parameters()}
    assert shapes == {"conv1.weight": (1, 1, 2, 2), "conv1.bias": (1,), "fc1.weight": (10, 729), "fc1.bias": (10,)}


def test_the_given_model_returns_log_probabilities_and_both_activations_cloned_and_detached():
    model, x = lab.LabModel(), torch.rand(3, 1, 28, 28)
    log_probabilities, after_conv, after_fc = model(x)
    assert torch.equal(after_conv, F.conv2d(x, model.conv1.weight, model.conv1.bias))
    assert torch.equal(after_fc, model.fc1(F.relu(after_conv).flatten(1)))
    assert torch.allclose(log_probabilities.exp().sum(1), torch.ones(3))
    assert torch.equal(log_probabilities, F.log_softmax(after_fc, dim=1))
    assert log_probabilities.requires_grad
    assert not after_conv.requires_grad
    assert not after_fc.requires_grad


def test_the_pooled_network_has_the_layers_that_the_exercise_speaks_of_in_order():
    names = [name for name, _ in lab.PooledCNN().named_children()]
    assert names == ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "fc1", "relu3", "fc2"]


PADDINGS = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}  # as in F.pad


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize(("padding", "side"), [(0, 5), (1, 7)])
def test_the_pooled_network_fits_its_linear_layer_to_the_padding(padding, padding_mode, side):
    model = lab.PooledCNN(padding=padding, padding_mode=padding_mode)
    assert model.fc1.in_features == 32 * side * side
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_both_convolutions_of_the_pooled_network_see_what_the_padding_says(padding_mode):
    model, x = lab.PooledCNN(padding=1, padding_mode=padding_mode), torch.rand(2, 1, 28, 28)
    found = lab.activations(model, x)
    for layer, before in ((model.conv1, x), (model.conv2, found["pool1"])):
        expected = {
            name: F.conv2d(F.pad(before, (1, 1, 1, 1), mode=mode), layer.weight, layer.bias)
            for name, mode in PADDINGS.items()
        }
        got = found["conv1" if layer is model.conv1 else "conv2"]
        assert [name for name, one in expected.items() if torch.allclose(got, one, atol=1e-6)] == [padding_mode]


@pytest.mark.parametrize("name", ["given", "pooled"])
def test_stated_strides_are_how_far_the_input_moves_for_one_step_of_the_output(name):
    model = lab.build_model(name, seed=0).double()
    x = torch.rand(1, 1, 28, 28, dtype=torch.float64)
    for layer, stride in model.STRIDES.items():
        original, moved = (lab.activations(model, t)[layer] for t in (x, x.roll(stride, -1)))
        assert torch.allclose(moved[..., 1:], original[..., :-1])
        assert stride == 1 or not torch.allclose(
            lab.activations(model, x.roll(stride // 2, -1))[layer][..., 1:], original[..., :-1]
        )


@pytest.mark.parametrize("name", ["given", "pooled"])
def test_initial_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(7)
    one = lab.build_model(name, seed=1).state_dict()
    expected = torch.rand(1, generator=torch.Generator().manual_seed(7))
    assert torch.equal(torch.rand(1), expected), "building a model moved the global random state"
    again, other = lab.build_model(name, seed=1).state_dict(), lab.build_model(name, seed=2).state_dict()
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match="model must be one of given, pooled: 'resnet'"):
        lab.build_model("resnet", seed=0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 1.0, True, None, "1"], ids=repr)
def test_a_seed_that_not_every_generator_takes_is_refused(seed):
    with pytest.raises(InputError, match=rf"seed must be at least 0 and below 2 \*\* 63: {seed}"):
        lab.build_model("given", seed=seed)


def test_the_device_of_a_network_is_that_of_its_weights():
    assert device_of(lab.LabModel()) == device_of(torch.nn.ReLU()) == torch.device("cpu")
    buffer = torch.nn.Module()
    buffer.register_buffer("mean", torch.zeros(1, device="meta"))
    for model in (lab.LabModel().to("meta"), buffer):
        with pytest.raises(InputError, match="those on the meta device have no values"):
            device_of(model)


@pytest.mark.parametrize("label", [-1, 10, 2**40])
def test_labels_that_are_no_class_are_refused(label):
    check_labels(torch.arange(10), 10)
    with pytest.raises(InputError, match=f"labels must be at least 0 and below 10, the number of classes: {label}"):
        check_labels(torch.tensor([3, label]), 10)


def test_evaluating_restores_each_mode_and_the_random_state_also_after_an_error():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm2d(1))
    model[1].eval()
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="stop"), evaluating(model, torch.device("cpu")):  # noqa: PT012  # state inside, then raise
        assert not any(m.training for m in model.modules())
        assert not torch.is_grad_enabled()
        torch.rand(1)
        raise RuntimeError("stop")
    assert [m.training for m in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()
    assert torch.equal(before, torch.random.get_rng_state())
