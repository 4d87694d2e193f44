// Theory and observation for every layer of one network, one image and one shift.

import { zeros } from "./layers.js"
import { equivarianceError, invarianceError } from "./metrics.js"
import { interior, moves, shift } from "./shifting.js"

/** @typedef {import("./layers.js").Tensor} Tensor */
/** @typedef {import("./network.js").Layer} Layer */
/** @typedef {import("./network.js").Network} Network */
/** @typedef {import("./network.js").Outputs} Outputs */
/** @typedef {import("./shifting.js").Mode} Mode */
/** @typedef {import("./shifting.js").Region} Region */

/** float32: an error that rounding can make, as in `lab.exercise`. The same sums in the same order make none at all. */
export const ROUNDING = 1e-6

/**
 * What one layer does to one shift.
 * @typedef {object} Finding
 * @property {Layer} layer
 * @property {boolean} onStride whether the stride divides the shift; false for a layer without positions
 * @property {number[]} move positions of the map down and right that belong to the shift, or are nearest to it
 * @property {Region} region the interior
 * @property {Tensor} expected T f(x); f(x) for a layer without positions
 * @property {Tensor} wrong the control's map: f(x) moved one step wrong; f of another image without positions
 * @property {Region} wrongRegion its interior
 * @property {number} error what theory speaks of: the interior's equivariance error; without positions the invariance error
 * @property {number} full equivariance error of the whole frame; NaN without positions
 * @property {boolean} same whether the moved image is the image itself, as for a blank one: then nothing can be seen
 * @property {number} control the same as `error`, with a wrong shift; without positions with an unrelated image
 */

/**
 * Whether theory promises that a layer is exact under a shift, and why, or why not. For networks without padding, away from the border.
 * @param {Layer} layer
 * @param {number} dy
 * @param {number} dx
 * @returns {{ exact: boolean, why: string }}
 */
export function theory({ flattens, stride }, dy, dx) {
  if (!dy && !dx) return { exact: true, why: "nothing has moved" }
  if (stride === null) {
    return { exact: false, why: flattens ? "each position has weights of its own" : "nothing makes its output invariant" }
  }
  if (stride === 1) return { exact: true, why: "every position has the same weights, and no stride skips any" }
  const broken = [...new Set([dy, dx])].filter((t) => t % stride !== 0).map((t) => Math.abs(t))
  return broken.length
    ? { exact: false, why: `the stride, ${stride}, does not divide ${broken.join(" and ")}` }
    : { exact: true, why: `the stride, ${stride}, divides the shift` }
}

/**
 * Whether an observed error agrees with exactness; NaN, where there is nothing to compare, does not contradict it.
 * @param {number} error
 */
export function isExact(error) {
  return !(error > ROUNDING)
}

/** Measures one network; keeps the room that this takes, so that a frame asks for none. */
export class Probe {
  /** @param {Network} network */
  constructor(network) {
    this.network = network
    this.first = network.outputs()
    this.second = network.outputs()
    this.other = network.outputs()
    this.moved = zeros([1, 28, 28])
    const blank = network.forward(zeros([1, 28, 28]), network.outputs())
    /** @type {Record<string, { blank: number[], expected: Tensor, trial: Tensor }>} */
    this.room = {}
    for (const { name, shape, stride } of network.layers) {
      const positions = shape.length === 3 ? shape[1] * shape[2] : 1
      const blanks = Array.from({ length: shape[0] }, (_, c) => blank[name].data[c * positions])
      if (stride !== null) this.room[name] = { blank: blanks, expected: zeros(shape), trial: zeros(shape) }
    }
  }

  /**
   * Take an image, and one that has nothing to do with it.
   * @param {Tensor} image `[1, 28, 28]`, in 0 to 1
   * @param {Tensor} unrelated likewise
   */
  take(image, unrelated) {
    this.image = image
    this.network.forward(image, this.first)
    this.network.forward(unrelated, this.other)
  }

  /**
   * Translate the image, run it, and compare each layer with theory.
   * @param {number} dy
   * @param {number} dx
   * @param {Mode} mode
   * @returns {Finding[]}
   */
  measure(dy, dx, mode) {
    if (!this.image) throw new Error("take an image first")
    const { data } = this.image
    this.network.forward(shift(this.image, dy, dx, mode, 0, this.moved), this.second)
    const same = this.moved.data.every((value, i) => value === data[i])
    return this.network.layers.map((layer) => ({ ...this.finding(layer, dy, dx, mode), same }))
  }

  /**
   * @param {Layer} layer
   * @param {number} dy
   * @param {number} dx
   * @param {Mode} mode
   * @returns {Omit<Finding, "same">}
   */
  finding(layer, dy, dx, mode) {
    const { name, shape, stride, unrelated_distance: distance } = layer
    const [before, after] = [this.first[name], this.second[name]]
    if (stride === null) {
      const error = invarianceError(before, after, distance)
      const control = invarianceError(this.other[name], after, distance)
      const region = { top: 0, bottom: 0, left: 0, right: 0 }
      const wrong = this.other[name]
      return { layer, onStride: false, move: [], region, expected: before, wrong, wrongRegion: region, error, full: NaN, control }
    }
    const { blank, expected, trial } = this.room[name]
    const right = [moves(dy, stride), moves(dx, stride)]
    const move = this.best(layer, right, mode)
    const region = interior(shape, move[0], move[1])
    shift(before, move[0], move[1], mode, blank, expected)
    const error = equivarianceError(after, expected, region)
    const full = equivarianceError(after, expected)
    const wrong = wrongMove(dy, dx, right)
    const wrongRegion = interior(shape, wrong[0], wrong[1])
    shift(before, wrong[0], wrong[1], mode, blank, trial)
    const control = equivarianceError(after, trial, wrongRegion)
    const onStride = right[0].length === 1 && right[1].length === 1
    return { layer, onStride, move, region, expected, wrong: trial, wrongRegion, error, full, control }
  }

  /**
   * Of the nearest moves, that with the smallest error of the interior.
   * @param {Layer} layer
   * @param {number[][]} right
   * @param {Mode} mode
   * @returns {number[]}
   */
  best({ name, shape }, right, mode) {
    const all = right[0].flatMap((my) => right[1].map((mx) => [my, mx]))
    if (all.length === 1) return all[0]
    const { blank, trial } = this.room[name]
    const errors = all.map(([my, mx]) => {
      shift(this.first[name], my, mx, mode, blank, trial)
      const error = equivarianceError(this.second[name], trial, interior(shape, my, mx))
      return Number.isNaN(error) ? Infinity : error
    })
    return all[errors.indexOf(Math.min(...errors))]
  }
}

/**
 * One step beside the right moves, along each axis that the shift is along; along both if there is no shift.
 * @param {number} dy
 * @param {number} dx
 * @param {number[][]} right the right moves along each axis
 * @returns {number[]}
 */
function wrongMove(dy, dx, right) {
  return right.map((steps, axis) => {
    if ((dy || dx) && ![dy, dx][axis]) return steps[0]
    const last = steps[steps.length - 1]
    return last > 0 ? steps[0] - 1 : last + 1
  })
}
