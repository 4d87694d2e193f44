// The network as a module of PyTorch, with the weights that it has on the page, and how to point the meter at it.

import { nameOf, numberOf, padsOf } from "./blocks.js"

/** @typedef {import("./blocks.js").Block} Block */
/** @typedef {import("./chain.js").Chain} Chain */

const BLUR_POOL = `
class BlurPool(nn.Module):
    """Blur, then keep every stride-th position (R. Zhang, ICML 2019, arXiv:1904.11486)."""

    def __init__(self, channels, kernel, stride, padding):
        super().__init__()
        line = torch.tensor({3: [1.0, 2.0, 1.0], 5: [1.0, 4.0, 6.0, 4.0, 1.0]}[kernel])
        line = line / line.sum()
        self.register_buffer("kernel", torch.outer(line, line).repeat(channels, 1, 1, 1))
        self.stride, self.padding = stride, padding

    def forward(self, x):
        x = F.pad(x, [self.kernel.shape[-1] // 2] * 4, mode=self.padding)
        return F.conv2d(x, self.kernel, stride=self.stride, groups=x.shape[1])

`
const ADAPTIVE = `
class AdaptiveSampling(nn.Module):
    """Keep every stride-th position, from where most energy is (A. Chaman, I. Dokmanić, CVPR 2021, arXiv:2011.14214)."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        s = self.stride
        phases = torch.stack([x[:, :, i::s, j::s] for i in range(s) for j in range(s)], 1)
        strongest = phases.square().sum((2, 3, 4)).argmax(1)
        return phases[torch.arange(len(x), device=x.device), strongest]

`
const GLOBAL_AVERAGE = `
class GlobalAverage(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))

`
const GLOBAL_MAXIMUM = `
class GlobalMaximum(nn.Module):
    def forward(self, x):
        return x.amax((2, 3))

`
const FULLY_CONNECTED = `
class FullyConnected(nn.Linear):
    """Of all values in a row."""

    def forward(self, x):
        return super().forward(x.flatten(1))

`
const ADD = `
class Add(nn.Module):
    def forward(self, x, earlier):
        return x + earlier

`
const BESIDE = `
class Beside(nn.Module):
    def forward(self, x, earlier):
        return torch.cat([x, earlier], 1)

`
const CLASSES = /** @type {Record<string, string>} */ ({
  ...{ blur: BLUR_POOL, aps: ADAPTIVE, gap: GLOBAL_AVERAGE, gmp: GLOBAL_MAXIMUM },
  ...{ linear: FULLY_CONNECTED, add: ADD, cat: BESIDE },
})

const SEEDED = `
def uniform(seed):
    """Numbers between -1 and 1, of 24 bits: mulberry32, as the page draws them."""
    last = 2**32 - 1
    while True:
        seed = (seed + 0x6D2B79F5) & last
        t = (seed ^ seed >> 15) * (seed | 1) & last
        t ^= (t + (t ^ t >> 7) * (t | 61)) & last
        yield ((t ^ t >> 14) >> 8) / 2**23 - 1


def with_weights(model, seed):
    numbers = uniform(seed)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            terms = module.weight[0].numel()
            for values, bound in (module.weight, math.sqrt(6 / terms)), (module.bias, 1 / math.sqrt(terms)):
                drawn = [next(numbers) * bound for _ in range(values.numel())]
                values.data = torch.tensor(drawn).reshape(values.shape)
    return model.eval()

`
const STORED = `
def with_weights(model, stored):
    """Those of the page: float32, in base64."""
    values = torch.frombuffer(bytearray(base64.b64decode(stored)), dtype=torch.float32)
    vector_to_parameters(values, model.parameters())
    return model.eval()

`

/**
 * What a block is, behind `self.NAME = `.
 * @param {Block} block
 * @param {readonly number[]} shape what enters
 */
function made(block, shape) {
  const value = (/** @type {string} */ name) => block[name]
  const inputs = shape.reduce((a, b) => a * b, 1)
  const texts = /** @type {Record<string, () => string>} */ ({
    conv: () => convolution(block, shape[0]),
    relu: () => "nn.ReLU()",
    max: () => `nn.MaxPool2d(${value("kernel")}, ${value("stride")})`,
    avg: () => `nn.AvgPool2d(${value("kernel")}, ${value("stride")})`,
    blur: () => `BlurPool(${shape[0]}, ${value("kernel")}, ${value("stride")}, "${value("padding") === "zeros" ? "constant" : value("padding")}")`,
    aps: () => `AdaptiveSampling(${value("stride")})`,
    norm: () => `nn.InstanceNorm2d(${shape[0]})`,
    gap: () => "GlobalAverage()",
    gmp: () => "GlobalMaximum()",
    linear: () => `FullyConnected(${inputs}, ${value("outputs")})`,
    add: () => "Add()",
    cat: () => "Beside()",
    up: () => `nn.Upsample(scale_factor=${value("factor")}, mode="nearest")`,
  })
  return texts[block.kind]()
}

/**
 * @param {Block} block
 * @param {number} inputs
 */
function convolution(block, inputs) {
  const { padding, dilation, stride } = block
  const [before, after] = padsOf(block)
  const options = [
    ...(stride === 1 ? [] : [`stride=${stride}`]),
    ...(after ? [`padding=${before === after ? before : '"same"'}`] : []),
    ...(dilation === 1 ? [] : [`dilation=${dilation}`]),
    ...(padding === "none" || padding === "zeros" ? [] : [`padding_mode="${padding}"`]),
  ]
  return `nn.Conv2d(${[inputs, block.channels, block.kernel, ...options].join(", ")})`
}

/**
 * The module and its `forward`.
 * @param {Chain} chain
 */
function moduleText({ blocks, shapes }) {
  const lines = blocks.map((block, at) => `        self.${nameOf(block, at)} = ${made(block, shapes[at])}`)
  const steps = blocks.map((block, at) => {
    const more = "from" in block ? `, x${numberOf(block, "from")}` : ""
    return `        x${at + 1} = self.${nameOf(block, at)}(x${at}${more})`
  })
  return `
class Network(nn.Module):
    """Takes normalised digits, n × 1 × 28 × 28."""

    def __init__(self):
        super().__init__()
${lines.join("\n")}

    def forward(self, x0):
${steps.join("\n")}
        return x${blocks.length}

`
}

/**
 * float32 numbers in base64.
 * @param {Chain} chain
 */
function stored({ weights }) {
  const values = Float32Array.from(weights.flatMap((one) => (one ? [...one.weight, ...one.bias] : [])))
  const bytes = new Uint8Array(values.buffer)
  let text = ""
  for (const byte of bytes) text += String.fromCharCode(byte)
  return btoa(text)
}

/**
 * A program that is complete by itself: `model` is the network, and run as a script it is measured.
 * @param {Chain} chain
 * @param {number | null} seed of the weights; null if they were loaded
 * @param {{ dy: number, dx: number, wrap: boolean }} shift
 */
export function programOf(chain, seed, { dy, dx, wrap }) {
  const kinds = new Set(chain.blocks.map(({ kind }) => kind))
  const own = Object.entries(CLASSES).flatMap(([kind, text]) => (kinds.has(/** @type {any} */ (kind)) ? [text] : []))
  const weighs = chain.parameters > 0
  const weights = !weighs ? "Network().eval()" : seed === null ? `with_weights(Network(), "${stored(chain)}")` : `with_weights(Network(), seed=${seed})`
  const functional = kinds.has("blur") ? "import torch.nn.functional as F\n" : ""
  const vector = weighs && seed === null ? "from torch.nn.utils import vector_to_parameters\n" : ""
  const standard = !weighs ? "" : seed === null ? "import base64\n\n" : "import math\n\n"
  const shifts = dy || dx ? `[(${dy}, ${dx})]` : "[(0, 1), (0, 2), (0, 4)]"
  const mode = wrap ? "wrap" : "background"
  return `"""A network from the playground of the Equivariance Lab, with the weights that it had there."""

${standard}import torch
${functional}from torch import nn
${vector}
${own.join("")}${moduleText(chain)}${weighs ? (seed === null ? STORED : SEEDED) : ""}
model = ${weights}

if __name__ == "__main__":
    import lab
    from lab.data import BACKGROUND
    from rich import print

    images = lab.normalize(lab.load_mnist("auto").test.images[:64])
    report = lab.meter(model, images, ${shifts}, mode="${mode}", background=BACKGROUND)
    print(report.table())
`
}
