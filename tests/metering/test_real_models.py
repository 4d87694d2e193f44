"""Real architectures, at small sizes and without trained weights: every row against f(T x) and T f(x) written out."""

import os

import pytest
import timm
import torch
import torchvision
from timm.models.swin_transformer import SwinTransformer
from torch import nn
from torchvision.models import segmentation
from twins import judged

import lab

WIDE = int(os.environ.get("LAB_NETWORKS", "50")) > 50
BOUND = 2e-4  # of the largest activation, float32: sums of up to 10,000 products, through up to 50 layers


class UNet(nn.Module):
    """Two levels. O. Ronneberger et al., MICCAI 2015, figure 1."""

    def __init__(self, channels=4):
        super().__init__()
        c = channels
        self.enter, self.down = nn.Conv2d(3, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)
        self.bottom, self.pool = nn.Conv2d(c, c, 3, padding=1), nn.MaxPool2d(2)
        self.up1, self.up2 = nn.ConvTranspose2d(c, c, 2, 2), nn.Upsample(scale_factor=2, mode="bilinear")
        self.merge, self.out = nn.Conv2d(2 * c, c, 3, padding=1), nn.Conv2d(2 * c, 2, 3, padding=1)

    def forward(self, x):
        a = torch.relu(self.enter(x))
        b = torch.relu(self.down(self.pool(a)))
        c = torch.relu(self.bottom(self.pool(b)))
        d = torch.relu(self.merge(torch.cat([b, self.up1(c)], 1)))
        return self.out(torch.cat([a, self.up2(d)], 1))


def circular(model):
    """With every convolution's zeros replaced by what is on the other side."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros":
            module.__init__(
                module.in_channels,
                module.out_channels,
                module.kernel_size,
                module.stride,
                module.padding,
                module.dilation,
                module.groups,
                module.bias is not None,
                "circular",
            )
    return model


def circular_resnet():
    model = circular(torchvision.models.resnet18())
    model.maxpool = nn.MaxPool2d(2)
    return model


def small_swin():
    return SwinTransformer(img_size=64, window_size=4, embed_dim=12, depths=(2, 1), num_heads=(1, 2), num_classes=5)


def small_vit():
    return torchvision.models.VisionTransformer(64, 16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)


def network(name, **options):
    return lambda: timm.create_model(name, pretrained=False, **options)


# name -> how to make it, its images' size, mode, shift, and what some layers are, which follows from how they are built
MODELS = {
    "a U-Net moves by multiples of 4": (UNet, 64, "background", (4, -8), {"up1": "exact", "out": "exact"}),
    "a U-Net does not move by 2": (
        UNet,
        64,
        "background",
        (2, 0),
        {"down": "exact", "bottom": "broken", "out": "broken"},
    ),
    "a ResNet's strides are 2 and 4 where its interior is not empty": (
        torchvision.models.resnet18,
        64,
        "background",
        (4, 0),
        {"conv1": "exact", "maxpool": "exact", "layer1.1.conv2": "exact", "layer4.1.conv2": "untestable"},
    ),
    "circular convolutions do not make a ResNet's classes invariant, for its max pooling pads": (
        lambda: circular(torchvision.models.resnet18()),
        64,
        "wrap",
        (32, -32),
        {"conv1": "exact", "fc": "broken"},
    ),
    "a circular ResNet's classes are invariant at its period": (
        circular_resnet,
        64,
        "wrap",
        (32, -32),
        {"conv1": "exact", "layer4.1.conv2": "exact", "fc": "exact"},
    ),
    "a circular ResNet's classes are not invariant off its period": (
        circular_resnet,
        64,
        "wrap",
        (16, 0),
        {"layer3.1.conv2": "exact", "layer4.1.conv2": "broken", "fc": "broken"},
    ),
    "a vision transformer adds a vector to each patch": (
        small_vit,
        64,
        "wrap",
        (16, 0),
        {"conv_proj": "exact", "encoder.layers.encoder_layer_0.ln_1": "broken", "heads.head": "broken"},
    ),
    "a shifted window's mask is at the frame": (
        small_swin,
        64,
        "wrap",
        (16, 0),
        {"patch_embed.proj": "exact", "layers.0.blocks.0": "exact", "layers.0.blocks.1": "broken"},
    ),
    "squeeze and excite sees the border": (
        network("mobilenetv3_small_050"),
        64,
        "background",
        (2, 0),
        {"conv_stem": "exact", "blocks.0.0.se": "broken"},
    ),
    "a ConvNeXt's stem has a stride of 4": (
        network("convnext_atto"),
        64,
        "background",
        (2, 0),
        {"stem.0": "broken", "stages.0.blocks.0.conv_dw": "broken"},
    ),
    "a ConvNeXt's stem has a period of 4": (
        network("convnext_atto"),
        64,
        "background",
        (4, 0),
        {"stem.0": "exact", "stages.0.blocks.0.conv_dw": "exact"},
    ),
    "a mixer's tokens are weighed one by one": (
        network("mixer_s32_224", img_size=64),
        64,
        "wrap",
        (32, 0),
        {"stem.proj": "exact", "blocks.0.mlp_tokens.fc1": "broken"},
    ),
    "pooling over the image is added to each position": (
        lambda: segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3),
        64,
        "background",
        (2, 0),
        {"backbone.0": "exact", "classifier.scale": "broken"},
    ),
}
MORE = {
    name: network(name)
    for name in (
        "efficientnet_b0",
        "densenet121",
        "hrnet_w18_small",
        "edgenext_xx_small",
        "skresnet18",
        "poolformer_s12",
    )
}
MORE |= {
    "fcn_resnet50": lambda: segmentation.fcn_resnet50(weights=None, weights_backbone=None),
    "deeplabv3": lambda: segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None),
    "xcit": network("xcit_nano_12_p16_224", img_size=64),
    "gmlp": network("gmlp_s16_224", img_size=64),
    "maxvit": network("maxvit_rmlp_pico_rw_256", img_size=64),
    "convmixer": network("convmixer_768_32"),
}


def made(make, size):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = make().eval()
        for values in model.parameters():
            if values.dim() == 1:  # as training leaves them: no scale and offset is 1 or 0
                values.data += 0.1 * torch.rand_like(values)
        return model, torch.rand(2, 3, size, size)


def check(model, images, shifts, mode, layers=None):
    report = lab.meter(model, images, shifts, mode=mode, layers=layers, quantities=["equivariance", "invariance"])
    for one in judged(report, model, images, wrap=mode == "wrap", bound=BOUND):
        assert not one.complaint, one
    return {row.layer: row.theory for row in report.rows}


@pytest.mark.parametrize("case", MODELS)
def test_what_is_said_of_a_model_is_what_the_twin_sees(case):
    make, size, mode, t, expected = MODELS[case]
    assert check(*made(make, size), [t], mode, None if WIDE else list(expected)).items() >= expected.items()


@pytest.mark.parametrize("mode", ["wrap", "background"])
@pytest.mark.parametrize("name", MORE if WIDE else ["poolformer_s12"])
def test_every_layer_of_a_model_is_what_the_twin_sees(name, mode):
    layers = None if WIDE else ["stem.conv", "stages.0.blocks.0.norm1", "stages.1.downsample.conv"]
    check(*made(MORE[name], 64), [(4, 0), (32, -32)], mode, layers)
