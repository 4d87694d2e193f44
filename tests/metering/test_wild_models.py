"""What people's forward functions do: theory against the twin, and the model as it was, whatever happens."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torchvision.ops import DeformConv2d
from twins import judged

import lab
from lab.errors import InputError, LabError


class Net(nn.Module):
    """Modules, and a function of these and the images."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.m = function, nn.ModuleList(modules)

    def forward(self, x):
        return self.function(self.m, x)


def conv(channels=3, out=4, kernel=3, **options):
    return nn.Conv2d(channels, out, kernel, **{"padding": kernel // 2} | options)


def round_conv(*channels):
    return conv(*channels, padding_mode="circular")


def in_place(m, x):
    y = m[0](x)
    y.relu_().add_(1).mul_(2)
    y[:, 0] = y[:, 1]
    y[:, :, :1] += y[:, :, 1:2]
    return m[1](y.clamp_(0, 3))


def polyphase(*, read):
    def function(m, x):
        y = m[0](x)
        grids = torch.stack([y[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)
        best = grids.flatten(2).norm(dim=2).argmax(1)
        if read:
            return m[1](torch.stack([grids[i, best[i].item()] for i in range(len(y))]))
        index = best[:, None, None, None, None].expand(-1, 1, *grids.shape[2:])
        return m[1](grids.gather(1, index)[:, 0])

    return Net(function, round_conv(), round_conv(4, 4))


def by_cat(x):
    x = torch.cat([x[:, :, -1:], x, x[:, :, :1]], 2)
    return torch.cat([x[..., -1:], x, x[..., :1]], 3)


def by_slices(x):
    out = x.new_empty(*x.shape[:2], x.shape[2] + 2, x.shape[3] + 2)
    out[:, :, 1:-1, 1:-1] = x
    out[:, :, 0, 1:-1], out[:, :, -1, 1:-1] = x[:, :, -1], x[:, :, 0]
    out[..., 0], out[..., -1] = out[..., -2], out[..., 1]
    return out


def by_roll(x):
    return x.roll((1, 1), (2, 3)).repeat(1, 1, 2, 2)[:, :, : x.shape[2] + 2, : x.shape[3] + 2]


def padded(by):
    return Net(lambda m, x: m[1](by(F.relu(m[0](by(x))))), conv(padding=0), conv(4, 4, padding=0))


def involution(m, x):
    kernels = m[0](x).view(len(x), 1, 9, *x.shape[2:])
    return m[1]((kernels * F.unfold(x, 3, padding=1).view(len(x), 3, 9, *x.shape[2:])).sum(2))


def own_kernel(m, x):
    kernels = m[0](x.mean((2, 3))).view(-1, 1, 3, 3)
    return m[1](F.conv2d(x.reshape(1, -1, *x.shape[2:]), kernels, padding=1, groups=len(kernels)).view(x.shape))


def transformer(m, x):
    y = m[0](x)
    return m[2](m[1](y.flatten(2).mT).mT.reshape(y.shape))


def cast(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m[1](F.relu(m[0](x)))


def columns(m, x):
    return m[1](m[0](x).mean(2).mT)[0]


def frequencies(m, x):
    return m[1](torch.fft.irfft2(torch.fft.rfft2(m[0](x)) * 0.5, s=x.shape[-2:]))


def gradient(m, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(m[0](x).square().sum(), x)
    return m[1](slope)


class Remembers(nn.Module):
    """Buffers of both kinds, numbers, lists and tensors that forward changes; and a gradient."""

    def __init__(self):
        super().__init__()
        self.c, self.norm = conv(), nn.BatchNorm2d(4)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("last", torch.zeros(4), persistent=False)
        self.calls, self.history, self.seen, self.options = 0, [], {}, {"sum": torch.zeros(1)}
        self.c.weight.grad = torch.rand_like(self.c.weight)
        self.c.bias.requires_grad_(False)
        self.norm.train()

    def forward(self, x):
        y = self.c(x)
        self.mean += y.mean((0, 2, 3))
        self.last = y.mean((0, 2, 3))
        self.calls += 1
        self.history.append(self.calls)
        self.seen[self.calls] = y
        self.c.weight.data.add_(0)
        return self.norm(y)


def hooked():
    model = nn.Sequential(conv(), nn.ReLU(), conv(4, 4))
    model[0].register_forward_hook(lambda _module, _inputs, output: output * 2)
    model[2].register_forward_pre_hook(lambda _module, inputs: (inputs[0] + 1,))
    return model


def compiled_inside():
    model = nn.Sequential(conv(), nn.ReLU(), conv(4, 4))
    model[2].compile(backend="eager")
    return model


def shared():
    again = conv(3, 3)
    return nn.Sequential(again, nn.ReLU(), again, again)


def normed():
    first, second = parametrizations.weight_norm(conv()), parametrizations.spectral_norm(conv(4, 4))
    return nn.Sequential(first, nn.ReLU(inplace=True), second, parametrizations.orthogonal(conv(4, 4, 1)))


WILD = {
    "deformable": lambda: Net(lambda m, x: m[1](x, m[0](x)), conv(3, 18), DeformConv2d(3, 4, 3, padding=1)),
    "frequencies": lambda: Net(frequencies, conv(), conv(4, 4)),
    "recurrent over columns": lambda: Net(columns, conv(), nn.LSTM(4, 5, batch_first=True)),
    "in place": lambda: Net(in_place, conv(), conv(4, 4)),
    "parametrised": normed,
    "a dict": lambda: Net(
        lambda m, x: {"a": m[0](x), "b": (x, [m[1](x)])}, conv(), nn.MaxPool2d(2, return_indices=True)
    ),
    "shared": shared,
    "compiled": lambda: torch.compile(nn.Sequential(conv(), nn.ReLU(), conv(4, 4)), backend="eager"),
    "compiled inside": compiled_inside,
    "checkpoint": lambda: Net(lambda m, x: checkpoint(m[1], m[0](x), use_reentrant=False), conv(), conv(4, 4)),
    "autocast": lambda: Net(cast, conv(), conv(4, 4)),
    "half": lambda: nn.Sequential(round_conv(), nn.ReLU(), round_conv(4, 4)).half(),
    "bfloat16": lambda: nn.Sequential(round_conv(), nn.GroupNorm(2, 4), round_conv(4, 4)).bfloat16(),
    "a branch": lambda: Net(lambda m, x: m[1](m[0](x)) if x.mean().item() > -1 else x, conv(), conv(4, 4)),
    "polyphase by gather": lambda: polyphase(read=False),
    "polyphase by item": lambda: polyphase(read=True),
    "circular by cat": lambda: padded(by_cat),
    "circular by slices": lambda: padded(by_slices),
    "circular by roll": lambda: padded(by_roll),
    "involution": lambda: Net(involution, conv(3, 9), conv()),
    "own kernel": lambda: Net(own_kernel, nn.Linear(3, 27), conv()),
    "einsum": lambda: Net(lambda m, x: torch.einsum("kc,nchw->nkhw", m[0].weight, m[1](x)), nn.Linear(4, 5), conv()),
    "vmap": lambda: Net(
        lambda m, x: m[1](torch.vmap(lambda y: y.relu() * y.mean())(m[0](x))), round_conv(), conv(4, 4)
    ),
    "transformer": lambda: Net(
        transformer,
        conv(3, 4, 4, stride=4, padding=0),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1),
        round_conv(4, 4),
    ),
    "a gradient": lambda: Net(gradient, conv(), conv()),
    "random": lambda: Net(lambda m, x: m[0](x) + torch.rand_like(x[:, :1]), conv()),
    "hooks": hooked,
    "remembers": Remembers,
}
CLEAR = {
    "exported": lambda: torch.export.export(nn.Sequential(conv()).eval(), (torch.rand(2, 3, 32, 32),)).module(),
    "one dimension": lambda: nn.Conv1d(3, 4, 3),
    "three dimensions": lambda: nn.Conv3d(3, 4, 3),
}
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float16: 0.02}  # a few roundings, of the largest activation


def made(make):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = make()
        kinds = [one.dtype for one in model.parameters()]
        return model, torch.rand(3, 3, 24, 32).to(kinds[0])


@pytest.mark.parametrize("mode", ["wrap", "background"])
@pytest.mark.parametrize("name", [name for name in WILD if name != "random"])
def test_theory_is_what_the_twin_sees(name, mode):
    model, images = made(WILD[name])
    report = lab.meter(model, images, [(4, 0), (3, -1)], mode=mode, quantities=["equivariance", "invariance"])
    model = getattr(model, "_orig_mod", model).eval()
    bound = ROUNDING[torch.bfloat16 if name == "autocast" else images.dtype]
    for one in judged(report, model, images, wrap=mode == "wrap", bound=bound):
        assert not one.complaint, one


@pytest.mark.parametrize("name", CLEAR)
def test_what_cannot_be_measured_is_said_in_a_line(name):
    model, images = made(CLEAR[name])
    with pytest.raises(InputError) as caught:
        lab.meter(model, images, [(1, 0)])
    assert "\n" not in str(caught.value)


def bits(value):
    if isinstance(value, torch.Tensor):
        return value.detach().clone().contiguous().flatten().view(torch.uint8).tolist(), value.shape, value.dtype
    return copy.copy(value) if isinstance(value, dict | list) else value


def state(model):
    """All that a model holds, bit for bit, and the random number generator."""
    found = {"rng": torch.get_rng_state().tolist()}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            inner = value if isinstance(value, dict) else {}
            found[name, key] = bits(value)
            found |= {(name, key, k): bits(v) for k, v in inner.items()}
        for key, parameter in module._parameters.items():
            if parameter is not None:
                found[name, key, "grad"] = parameter.requires_grad, bits(parameter.grad)
    return {key: value for key, value in found.items() if not isinstance(value, dict)} | {
        (key, "keys"): list(value) for key, value in found.items() if isinstance(value, dict)
    }


class Interrupts:
    """Raises from a hook, at one of its calls and all later ones: some probes take an error for an answer."""

    error, calls = None, 0

    def __call__(self, *_):
        self.calls -= 1
        if self.error and self.calls <= 0:
            raise self.error


def looks(model, images):
    lab.trace(getattr(model, "_orig_mod", model), images[:1])
    lab.activations(model, images)
    lab.meter(model, images, [(1, 0)], quantities=["invariance"])


@pytest.mark.parametrize("name", WILD)
def test_a_model_is_as_it_was_whatever_happens(name):
    model, images = made(WILD[name])
    model.train()
    inner = [module for module in model.modules() if not list(module.children())]
    interrupts = Interrupts()
    inner[-1].register_forward_pre_hook(interrupts)
    before = state(model)
    looks(model, images)
    assert state(model) == before
    for error, expected in ((RuntimeError("its own"), LabError), (KeyboardInterrupt(), KeyboardInterrupt)):
        for call in (1, 2, 3, 4):
            interrupts.error, interrupts.calls = error, call
            with pytest.raises(expected):
                lab.meter(model, images, [(1, 0)])
            assert state(model) == before, (error, call)
