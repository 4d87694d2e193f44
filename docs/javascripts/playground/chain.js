// A network that runs: its blocks, their shapes, their weights.

import { nameOf, numberOf, padsOf, shapesOf, weightsOf } from "./blocks.js"
import { connect, convolve, normalize, pad, padded, pool, poolAll, room, sample, upsample } from "./computing.js"
import { fill } from "./random.js"

/** @typedef {import("./blocks.js").Block} Block */
/** @typedef {import("./computing.js").Tensor} Tensor */
/** @typedef {{ outputs: Tensor[], phases: Map<number, [number, number]> }} Run what all blocks returned, behind the image; and what adaptive sampling chose */

const BINOMIAL = /** @type {Record<number, number[]>} */ ({ 3: [1, 2, 1], 5: [1, 4, 6, 4, 1] })

export class Chain {
  /**
   * @param {readonly Block[]} blocks
   * @param {number | ArrayLike<number>} weights a seed; or all weights, block by block, the biases of each behind its weights
   * @throws {import("./blocks.js").RuleError} it cannot be
   */
  constructor(blocks, weights) {
    this.blocks = blocks
    this.shapes = shapesOf(blocks)
    this.names = blocks.map(nameOf)
    const shapes = blocks.map((block, at) => weightsOf(block, this.shapes[at]))
    this.weights = shapes.map((one) => one && { weight: room(one.weight).data, bias: room(one.bias).data, shape: one.weight })
    this.parameters = this.weights.reduce((sum, one) => sum + (one ? one.weight.length + one.bias.length : 0), 0)
    if (typeof weights === "number") fill(this.weights, weights)
    else this.take(weights)
    const blurs = blocks.map((block, at) => (block.kind === "blur" ? kernels(this.shapes[at][0], numberOf(block, "kernel")) : null))
    this.blurs = blurs
    this.around = blocks.map((block, at) => {
      const [before, after] = padsOf(block)
      if (!before && !after) return null
      const [channels, size] = this.shapes[at]
      const places = padded(size, before, after, String(block.padding))
      return { places, room: room([channels, places.length, places.length]) }
    })
  }

  /** @param {ArrayLike<number>} values */
  take(values) {
    let at = 0
    for (const one of this.weights) {
      for (const part of one ? [one.weight, one.bias] : []) for (let i = 0; i < part.length; i++) part[i] = values[at++]
    }
  }

  /**
   * Room for one run.
   * @returns {Run}
   */
  run() {
    return { outputs: this.shapes.map(room), phases: new Map() }
  }

  /**
   * Run all blocks on the image, which is the first of the outputs.
   * @param {Run} run overwritten
   * @param {boolean} [sharp] without any blur: each stride that blurs takes the middle of its window
   */
  forward(run, sharp = false) {
    this.blocks.forEach((block, at) => this.step(block, at, run, sharp))
  }

  /**
   * @param {Block} block
   * @param {number} at
   * @param {Run} run
   * @param {boolean} sharp
   */
  step(block, at, { outputs, phases }, sharp) {
    const [x, out] = [outputs[at], outputs[at + 1]]
    const [kernel, stride, dilation] = ["kernel", "stride", "dilation"].map((name) => Number(block[name] ?? 1))
    const steps = /** @type {Record<string, () => void>} */ ({
      conv: () => this.convolve(at, x, stride, dilation, out, sharp),
      relu: () => x.data.forEach((value, i) => (out.data[i] = value > 0 ? value : 0)),
      max: () => pool(x, true, kernel, stride, out),
      avg: () => pool(x, false, kernel, stride, out),
      blur: () => this.convolve(at, x, stride, 1, out, sharp),
      aps: () => phases.set(at, sample(x, stride, out)),
      norm: () => normalize(x, out),
      gap: () => poolAll(x, false, out),
      gmp: () => poolAll(x, true, out),
      linear: () => this.connect(at, x, out),
      add: () => outputs[numberOf(block, "from")].data.forEach((value, i) => (out.data[i] = x.data[i] + value)),
      cat: () => {
        out.data.set(x.data)
        out.data.set(outputs[numberOf(block, "from")].data, x.data.length)
      },
      up: () => upsample(x, numberOf(block, "factor"), out),
    })
    steps[block.kind]()
  }

  /**
   * @param {number} at
   * @param {Tensor} x
   * @param {number} stride
   * @param {number} dilation
   * @param {Tensor} out
   * @param {boolean} sharp
   */
  convolve(at, x, stride, dilation, out, sharp) {
    const around = this.around[at]
    if (around) pad(x, around.places, around.room)
    const from = around ? around.room : x
    const blur = this.blurs[at]
    const own = this.weights[at]
    const weight = blur ?? { data: own?.weight ?? new Float64Array(), shape: own?.shape ?? [] }
    const used = sharp && this.isBlur(at) ? middle(weight) : weight
    convolve(from, used, own?.bias ?? null, stride, dilation, out, Boolean(blur))
  }

  /**
   * @param {number} at
   * @param {Tensor} x
   * @param {Tensor} out
   */
  connect(at, x, out) {
    const own = this.weights[at]
    if (own) connect(x, own.weight, own.bias, out)
  }

  /**
   * Whether a block blurs at a stride: the same kernel in all channels, none below 0, as `lab.metering.operations.is_blur`.
   * @param {number} at
   */
  isBlur(at) {
    const block = this.blocks[at]
    if (!(Number(block.stride) > 1)) return false
    if (block.kind === "blur") return true
    const own = this.weights[at]
    if (block.kind !== "conv" || !own || own.shape[0] !== 1 || own.shape[1] !== 1) return false
    return own.weight.every((value) => value >= 0) && own.weight.filter((value) => value > 0).length > 1
  }
}

/**
 * A binomial kernel for each channel.
 * @param {number} channels
 * @param {number} size
 * @returns {Tensor}
 */
function kernels(channels, size) {
  const line = BINOMIAL[size]
  const sum = line.reduce((a, b) => a + b, 0)
  const one = line.flatMap((a) => line.map((b) => (a / sum) * (b / sum)))
  return { data: Float64Array.from({ length: channels * one.length }, (_, i) => one[i % one.length]), shape: [channels, 1, size, size] }
}

/**
 * The same kernels without their blur.
 * @param {Tensor} weight
 * @returns {Tensor}
 */
function middle({ data, shape }) {
  const size = shape[2]
  const half = Math.floor((size - 1) / 2)
  return { data: data.map((_, i) => (i % (size * size) === half * size + half ? 1 : 0)), shape }
}
