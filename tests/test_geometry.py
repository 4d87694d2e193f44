"""What the trace finds: sums, functions, tokens, circles, and what sees everything."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import lab
from lab.errors import InputError
from lab.geometry import trace


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Net(nn.Module):
    """A named first convolution, then a function of its output and two more modules, then `tail` to see the result."""

    def __init__(self, function, **modules):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)
        self.tail = nn.Identity()

    def forward(self, x):
        return self.tail(self.function(self, self.first(x)))


def axis(net, layer="tail", size=32):
    return trace(net.eval(), torch.rand(1, 1, size, size))[layer].grid.y


def conv(**options):
    return nn.Conv2d(4, 4, **({"kernel_size": 3, "padding": 1} | options))


SEEN = {  # function, modules -> stride, reach, offset
    "a sum has the reach of the longer branch": (lambda m, x: x + m.b(m.a(x)), {"a": conv(), "b": conv()}, (1, 7, -3)),
    "so has a concatenation": (lambda m, x: torch.cat([x, m.a(x)], 1), {"a": conv(dilation=2, padding=2)}, (1, 7, -3)),
    "a slice is a stride": (lambda m, x: m.a(x)[:, :, ::2, ::2], {"a": conv()}, (2, 5, -2)),
    "padding by a function": (lambda m, x: m.a(F.pad(x, (1, 1, 1, 1))), {"a": conv(padding=0)}, (1, 5, -2)),
    "padding by hand": (
        lambda m, x: m.a(torch.cat([torch.zeros_like(x[:, :, :2]), x], 2)),
        {"a": conv(kernel_size=(3, 1), padding=0)},
        (1, 5, -3),
    ),
    "a crop begins inside": (lambda _m, x: x[:, :, 3:-2, 3:-2], {}, (1, 3, 2)),
    "in place": (lambda _m, x: x.relu_().mul_(2), {}, (1, 3, -1)),
}


@pytest.mark.parametrize("case", SEEN)
def test_functions_and_branches(case):
    function, modules, (stride, reach, offset) = SEEN[case]
    found = axis(Net(function, **modules))
    assert (found.stride, found.reach, found.offset) == (stride, reach, offset)


def test_calls_of_a_reused_module_are_told_apart():
    found = trace(Net(lambda m, x: m.a(m.a(x)), a=conv()), torch.rand(1, 1, 32, 32))
    assert [found[name].grid.y.reach for name in ("first", "a", "a#2")] == [3, 5, 7]


def test_tuples_and_dicts_are_traced_too():
    class Two(nn.Module):
        def forward(self, x):
            return x[:, :, ::2], {"even": F.max_pool2d(x, 2)}

    found = trace(Net(lambda m, x: m.two(x)[1]["even"], two=Two()), torch.rand(1, 1, 32, 32))
    assert found["two[0]"].grid.stride == (2, 1)
    assert found["two[1][even]"].grid.stride == (2, 2)


def test_channels_may_come_last():
    found = trace(Net(lambda m, x: m.norm(x.permute(0, 2, 3, 1)), norm=nn.LayerNorm(4)), torch.rand(1, 1, 20, 12))
    assert found["norm"].grid.layout.dims == (1, 2)
    assert (found["norm"].grid.y.reach, found["norm"].grid.x.outputs) == (3, 12)


@pytest.mark.parametrize("prefix", [0, 1], ids=["tokens", "tokens after a class token"])
def test_tokens_are_read_row_by_row(prefix):
    def tokens(_module, x):
        rows = F.avg_pool2d(x, 4).flatten(2).mT
        return torch.cat([rows.new_zeros(len(rows), prefix, rows.shape[2]), rows], 1)

    layer = trace(Net(tokens), torch.rand(1, 1, 32, 48))["tail"]
    assert (layer.grid.layout.size, layer.grid.layout.prefix) == ((8, 12), prefix)
    assert (layer.grid.stride, layer.grid.y.reach) == ((4, 4), 6)


GLOBAL = {
    "group norm": (nn.GroupNorm(2, 4), True),
    "instance norm": (nn.InstanceNorm2d(4), True),
    "squeeze and excitation": (torchvision.ops.SqueezeExcitation(4, 2), True),
    "average over all positions": (nn.AdaptiveAvgPool2d(1), False),
    "flattened and connected": (nn.Sequential(nn.Flatten(), nn.Linear(4 * 32 * 32, 5)), False),
}


@pytest.mark.parametrize("case", GLOBAL)
def test_what_sees_everything_is_recognised(case):
    module, keeps_positions = GLOBAL[case]
    layer = trace(Net(lambda m, x: m.a(x), a=module).eval(), torch.rand(1, 1, 32, 32))["tail"]
    assert layer.sees_all
    assert (layer.grid is not None) == keeps_positions
    assert not keeps_positions or not layer.grid.y.interior


def test_every_activation_function_lets_nan_through():
    x = torch.randn(1, 4, 6, 11)
    x[:, :, 2, 3] = torch.nan
    needs_arguments = {"Module", "MultiheadAttention", "Threshold", "GLU", "Softmax", "LogSoftmax", "Softmin"}
    names = set(nn.modules.activation.__all__) - needs_arguments - {"Softmax2d"}
    assert len(names) > 20
    for name in names:
        assert torch.equal(getattr(nn, name)()(x).isnan(), x.isnan()), name


CIRCLES = {
    "circular padding": (conv(padding_mode="circular"), True),
    "dilated": (conv(padding_mode="circular", dilation=2, padding=2), True),
    "strided": (conv(padding_mode="circular", stride=2), True),
    "zero padding": (conv(), False),
    "reflected": (conv(padding_mode="reflect"), False),
    "replicated": (conv(padding_mode="replicate"), False),
    "none": (conv(padding=0), False),
    "zeros after a circle": (nn.Sequential(conv(padding_mode="circular"), conv()), False),
    "a circle after zeros": (nn.Sequential(conv(), conv(padding_mode="circular")), False),
}


@pytest.mark.parametrize("case", CIRCLES)
def test_a_circle_is_recognised_only_where_all_of_it_is_one(case):
    module, expected = CIRCLES[case]
    net = Net(lambda m, x: m.a(x), a=module)
    net.first = nn.Conv2d(1, 4, 1)
    assert axis(net).circular == expected


def test_upsampling_lies_on_no_regular_grid():
    found = axis(Net(lambda _m, x: F.interpolate(x, scale_factor=2)))
    assert (found.stride, found.reach, len(found.interior)) == (None, None, 0)


def resnet():
    return torchvision.models.get_model("resnet18", weights=None).eval()


def test_resnets_receptive_fields_are_the_published_ones():
    found = trace(resnet(), torch.rand(1, 3, 160, 160))
    reach = {name: found[name].grid.y.reach for name in ("conv1", "maxpool", "layer1", "layer2")}
    assert reach == {"conv1": 7, "maxpool": 11, "layer1": 43, "layer2": 99}
    assert [found[f"layer{i}"].grid.y.stride for i in (1, 2)] == [4, 8]


@pytest.mark.parametrize("layer", ["conv1", "maxpool", "layer1"])
def test_one_ring_more_than_the_comparable_outputs_breaks_exactness(layer):
    model, images = resnet().double(), torch.rand(2, 3, 96, 96, dtype=torch.float64)
    axis = trace(model, images[:1])[layer].grid.y
    move = 16 // axis.stride
    first, moved = (lab.activations(model, x, [layer])[layer] for x in (images, lab.shift(images, 16, 16)))
    inside = axis.comparable(move).nonzero()[:, 0] + move  # outputs of the translated image

    def difference(rows):
        return (moved[:, :, rows][..., rows] - first[:, :, rows - move][..., rows - move]).abs().amax()

    wider = torch.arange(int(inside[0]) - 1, int(inside[-1]) + 2)
    assert difference(inside) <= 1e-12 * first.abs().amax()  # float64
    assert difference(wider) > 1e-3 * first.abs().amax()


def test_the_model_is_left_as_it_was_also_when_it_fails():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(7, 1))
    state, before = {k: v.clone() for k, v in net.state_dict().items()}, torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trace(net, torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert net.training
    assert torch.equal(before, torch.random.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (1, 8, 8), (1, 1, 1, 8)])
def test_what_is_not_one_image_is_refused(shape):
    with pytest.raises(InputError, match="trace needs one image, 1 c h w, of at least"):
        trace(nn.Conv2d(1, 1, 1), torch.rand(shape))
