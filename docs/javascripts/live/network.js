// A network, from what `lab export` has written.

import { conv2d, linear, maxPool2d, relu, zeros } from "./layers.js"

/** @typedef {import("./layers.js").Tensor} Tensor */
/** @typedef {{ shape: number[], offset: number }} Parameter where it stands among all, counted in numbers */

/**
 * @typedef {object} Layer
 * @property {string} name
 * @property {"conv2d" | "relu" | "maxPool2d" | "linear"} kind
 * @property {number[]} shape of its output
 * @property {number | null} stride total, in pixels of the image; null where there are no positions
 * @property {number} unrelated_distance mean distance between its outputs for unrelated images
 * @property {number} unrelated_sorted_distance the same, sorted
 * @property {number} [kernel_size]
 * @property {boolean} [flattens] whether it takes a map, and gives up positions; found by `Network`
 * @property {Parameter} [weight]
 * @property {Parameter} [bias]
 */

/**
 * @typedef {object} Description
 * @property {"given" | "pooled"} name
 * @property {boolean} trained
 * @property {number} parameters how many
 * @property {number} accuracy share of the test images, as they are, whose class it finds
 * @property {Layer[]} layers in the order in which they run
 * @property {string} file
 * @property {number} bytes
 * @property {string} sha256
 */

/** @typedef {Record<string, Tensor>} Outputs the output of each layer, by name; `input` is the normalised image */

/**
 * Numbers from float16: the high bytes of all, then the low bytes of all.
 * @param {Uint8Array} bytes
 * @returns {Float32Array}
 */
export function fromHalves(bytes) {
  const numbers = new Float32Array(bytes.length / 2)
  for (let i = 0; i < numbers.length; i++) {
    const half = (bytes[i] << 8) | bytes[numbers.length + i]
    const exponent = (half >> 10) & 31
    const fraction = half & 1023
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24
    numbers[i] = half & 0x8000 ? -size : size
  }
  return numbers
}

/** One network, with its weights. */
export class Network {
  /**
   * @param {Description} description
   * @param {Float32Array} parameters all of them, in the order of the layers
   * @param {{ mean: number, std: number }} normalisation of pixels in 0 to 1
   */
  constructor(description, parameters, normalisation) {
    this.description = description
    this.values = parameters
    this.layers = description.layers.map((layer, i, all) => {
      return { ...layer, flattens: layer.stride === null && all[i - 1]?.stride !== null }
    })
    this.normalisation = normalisation
    /** @type {Record<string, { weight: Tensor, bias: Tensor }>} */
    this.parameters = {}
    for (const { name, weight, bias } of this.layers) {
      if (weight && bias) {
        const [w, b] = [weight, bias].map(({ shape, offset }) => {
          const size = shape.reduce((p, q) => p * q, 1)
          return { data: parameters.subarray(offset, offset + size), shape }
        })
        this.parameters[name] = { weight: w, bias: b }
      }
    }
  }

  /** The name of the last layer, which scores the classes. */
  get head() {
    return this.layers[this.layers.length - 1].name
  }

  /**
   * Room for the outputs of all layers for one image.
   * @returns {Outputs}
   */
  outputs() {
    const shapes = this.layers.map(({ name, shape }) => [name, zeros(shape)])
    return { input: zeros([1, 28, 28]), ...Object.fromEntries(shapes) }
  }

  /**
   * Run the network on one image.
   * @param {Tensor} image `[1, 28, 28]`, in 0 to 1
   * @param {Outputs} outputs overwritten
   * @returns {Outputs} `outputs`
   */
  forward(image, outputs) {
    const { mean, std } = this.normalisation
    for (let i = 0; i < image.data.length; i++) outputs.input.data[i] = (image.data[i] - mean) / std
    let x = outputs.input
    for (const { name, kind, kernel_size: size = 1 } of this.layers) {
      const { weight, bias } = this.parameters[name] ?? {}
      const out = outputs[name]
      if (kind === "conv2d") conv2d(x, weight, bias, out)
      else if (kind === "linear") linear(x, weight, bias, out)
      else if (kind === "maxPool2d") maxPool2d(x, size, out)
      else relu(x, out)
      x = out
    }
    return outputs
  }
}
