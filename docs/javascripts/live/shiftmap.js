// What a network says of one image at every shift.

import { zeros } from "./layers.js"
import { shift } from "./shifting.js"

/** @typedef {import("./layers.js").Tensor} Tensor */
/** @typedef {import("./network.js").Network} Network */
/** @typedef {import("./shifting.js").Mode} Mode */

export const RADIUS = 14
export const SIDE = 2 * RADIUS + 1

/**
 * The class predicted at each shift, row by row: `dy` from -14 to 14, in each row `dx` likewise.
 * @param {Network} network
 * @param {Tensor} image `[1, 28, 28]`, in 0 to 1
 * @param {Mode} mode
 * @returns {Generator<number, void>} one class at a time, so that a page can go on living meanwhile
 */
export function* shiftMap(network, image, mode) {
  const moved = zeros(image.shape)
  const outputs = network.outputs()
  for (let dy = -RADIUS; dy <= RADIUS; dy++) {
    for (let dx = -RADIUS; dx <= RADIUS; dx++) {
      network.forward(shift(image, dy, dx, mode, 0, moved), outputs)
      yield argmax(outputs[network.head].data)
    }
  }
}

/**
 * Where the largest value stands.
 * @param {ArrayLike<number>} values
 * @returns {number}
 */
export function argmax(values) {
  let best = 0
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i
  return best
}
