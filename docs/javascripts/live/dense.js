// All shifts at once: a network without padding runs over a larger canvas, and each shift of the image is a window of it.
// Strides become dilations; so each value is the same sum of the same terms as in the network itself.

import { conv2d, linear, relu, zeros } from "./layers.js"

/** @typedef {import("./layers.js").Tensor} Tensor */
/** @typedef {import("./network.js").Network} Network */
/** @typedef {import("./shifting.js").Mode} Mode */

/**
 * The image in the middle of a canvas, with what its shifts bring in around it.
 * @param {Tensor} image `[1, size, size]`
 * @param {number} radius pixels on each side, at most `size`
 * @param {Mode} mode
 * @returns {Tensor} `[1, size + 2 radius, size + 2 radius]`
 */
export function canvasAround({ data, shape }, radius, mode) {
  const size = shape[1]
  const canvas = zeros([1, size + 2 * radius, size + 2 * radius])
  const side = size + 2 * radius
  for (let at = 0; at < canvas.data.length; at++) {
    const [y, x] = [Math.floor(at / side) - radius, (at % side) - radius]
    const inside = y >= 0 && y < size && x >= 0 && x < size
    if (inside || mode === "wrap") canvas.data[at] = data[((y + size) % size) * size + ((x + size) % size)]
  }
  return canvas
}

/**
 * The last map of a network, at every place of a canvas; made piece by piece, so that a page can go on living meanwhile.
 * @param {Network} network its layers with positions: convolutions of stride 1, ReLU, max pooling
 * @param {Tensor} canvas in 0 to 1
 * @returns {Generator<null, Tensor>} null after each channel; at its end `[channels, places, places]`, where the map of
 *     a window is every so many of them as its stride has pixels
 */
export function* denseMap(network, canvas) {
  const { mean, std } = network.normalisation
  /** @type {Tensor} */
  let x = { data: canvas.data.map((value) => (value - mean) / std), shape: canvas.shape }
  let dilation = 1
  for (const { name, kind, stride, kernel_size: size = 1 } of network.layers) {
    if (stride === null) break
    if (kind === "conv2d") {
      const { weight, bias } = network.parameters[name]
      const side = x.shape[1] - dilation * (weight.shape[2] - 1)
      const out = zeros([weight.shape[0], side, side])
      for (let o = 0; o < weight.shape[0]; o++) {
        conv2d(x, channel(weight, o), channel(bias, o), channel(out, o), dilation)
        yield null
      }
      x = out
    } else if (kind === "maxPool2d") {
      x = denseMaxPool2d(x, size, dilation)
      dilation *= size
    } else relu(x, x)
  }
  return x
}

/**
 * A view of one of the first dimension's parts.
 * @param {Tensor} tensor
 * @param {number} o
 * @returns {Tensor} its first dimension is 1
 */
function channel({ data, shape }, o) {
  const size = data.length / shape[0]
  return { data: data.subarray(o * size, (o + 1) * size), shape: [1, ...shape.slice(1)] }
}

/**
 * The largest value of the tile that begins at each place.
 * @param {Tensor} x `[channels, side, side]`
 * @param {number} size of a tile
 * @param {number} dilation places between neighbours in it
 * @returns {Tensor}
 */
function denseMaxPool2d(x, size, dilation) {
  const [channels, side] = x.shape
  const small = side - dilation * (size - 1)
  const out = zeros([channels, small, small])
  out.data.fill(-Infinity)
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) {
      for (let row = 0; row < channels * small; row++) {
        const from = (Math.floor(row / small) * side + (row % small) + i * dilation) * side + j * dilation
        for (let q = 0, at = row * small; q < small; q++, at++) {
          if (x.data[from + q] > out.data[at]) out.data[at] = x.data[from + q]
        }
      }
    }
  }
  return out
}

/**
 * What the layers without positions make of one window.
 * @param {Network} network
 * @param {Tensor} map that `denseMap` has made
 * @param {number} top of the window on the canvas
 * @param {number} left
 * @param {import("./network.js").Outputs} outputs overwritten, from the last map on
 */
export function windowOutputs(network, map, top, left, outputs) {
  const first = network.layers.findIndex(({ stride }) => stride === null)
  const { name: last, stride } = network.layers[first - 1]
  let x = outputs[last]
  const [channels, rows, columns] = x.shape
  const side = map.shape[1]
  for (let c = 0, at = 0; c < channels; c++) {
    for (let y = 0; y < rows; y++) {
      const from = (c * side + top + y * (stride ?? 1)) * side + left
      for (let q = 0; q < columns; q++, at++) x.data[at] = map.data[from + q * (stride ?? 1)]
    }
  }
  for (const { name, kind } of network.layers.slice(first)) {
    const { weight, bias } = network.parameters[name] ?? {}
    x = kind === "linear" ? linear(x, weight, bias, outputs[name]) : relu(x, outputs[name])
  }
}
