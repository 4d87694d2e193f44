// What a network says of one image at every shift.

import { canvasAround, denseMap, windowOutputs } from "./dense.js"
import { softmax } from "./layers.js"

/** @typedef {import("./layers.js").Tensor} Tensor */
/** @typedef {import("./network.js").Network} Network */
/** @typedef {import("./shifting.js").Mode} Mode */

export const RADIUS = 14
export const SIDE = 2 * RADIUS + 1

/** @typedef {{ predicted: number, probability: number }} Answer the class that is predicted, and how sure the network is */

/**
 * The answer at each shift, row by row: `dy` from -14 to 14, in each row `dx` likewise.
 * @param {Network} network
 * @param {Tensor} image `[1, 28, 28]`, in 0 to 1
 * @param {Mode} mode
 * @returns {Generator<Answer | null, void>} one at a time, so that a page can go on living meanwhile; null for
 *     each piece of the work that comes before the first
 */
export function* shiftMap(network, image, mode) {
  const map = yield* denseMap(network, canvasAround(image, RADIUS, mode))
  const outputs = network.outputs()
  const scores = outputs[network.head]
  const shares = new Float64Array(scores.data.length)
  for (let dy = -RADIUS; dy <= RADIUS; dy++) {
    for (let dx = -RADIUS; dx <= RADIUS; dx++) {
      windowOutputs(network, map, RADIUS - dy, RADIUS - dx, outputs)
      const predicted = argmax(scores.data)
      yield { predicted, probability: softmax(scores, shares)[predicted] }
    }
  }
}

/**
 * Where there is room to write a class on its part of the map: for each connected part, the middle of its widest square.
 * @param {ArrayLike<number>} predicted `SIDE * SIDE` classes
 * @returns {{ row: number, column: number, radius: number, predicted: number }[]} `radius` counts cells beside the
 *     middle; parts of less than three cells across are left out
 */
export function territories(predicted) {
  const part = new Int16Array(SIDE * SIDE).fill(-1)
  /** @type {{ row: number, column: number, radius: number, predicted: number }[]} */
  const widest = []
  for (let start = 0; start < part.length; start++) {
    if (part[start] < 0) widest.push(spread(predicted, part, start, widest.length))
  }
  return widest.filter(({ radius }) => radius > 0)
}

/**
 * Give one part its number, and find its widest square.
 * @param {ArrayLike<number>} predicted
 * @param {Int16Array} part changed
 * @param {number} start
 * @param {number} number
 */
function spread(predicted, part, start, number) {
  const best = { row: 0, column: 0, radius: -1, predicted: predicted[start] }
  const waiting = [start]
  part[start] = number
  for (let at = waiting.pop(); at !== undefined; at = waiting.pop()) {
    const [row, column] = [Math.floor(at / SIDE), at % SIDE]
    const radius = room(predicted, row, column)
    if (radius > best.radius) Object.assign(best, { row, column, radius })
    const beside = [row ? at - SIDE : at, row < SIDE - 1 ? at + SIDE : at, column ? at - 1 : at, column < SIDE - 1 ? at + 1 : at]
    for (const next of beside) {
      if (part[next] >= 0 || predicted[next] !== predicted[at]) continue
      part[next] = number
      waiting.push(next)
    }
  }
  return best
}

/**
 * How far the square around a cell can grow with one class in it.
 * @param {ArrayLike<number>} predicted
 * @param {number} row
 * @param {number} column
 */
function room(predicted, row, column) {
  const most = Math.min(row, column, SIDE - 1 - row, SIDE - 1 - column)
  const same = (/** @type {number} */ i, /** @type {number} */ j) => predicted[i * SIDE + j] === predicted[row * SIDE + column]
  for (let r = 1; r <= most; r++) {
    for (let k = -r; k <= r; k++) {
      if (!(same(row - r, column + k) && same(row + r, column + k) && same(row + k, column - r) && same(row + k, column + r))) return r - 1
    }
  }
  return most
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
