// Theory beside observation, for every block of one network, one image and one shift: as `lab.meter`, for one image.

import { padded } from "./computing.js"
import { best, decisive, distance, movesOf, relative, TOLERANCE, wrongMove } from "./comparison.js"
import { trace } from "./receptive_fields.js"
import { expect } from "./theory.js"

/** @typedef {import("./chain.js").Chain} Chain */
/** @typedef {import("./chain.js").Run} Run */
/** @typedef {import("./comparison.js").Moved} Moved */
/** @typedef {import("./comparison.js").Sums} Sums */
/** @typedef {import("./computing.js").Tensor} Tensor */
/** @typedef {import("./receptive_fields.js").Geometry} Geometry */
/** @typedef {import("./theory.js").Prediction} Prediction */
/** @typedef {"exact" | "not exact" | "nothing" | "degenerate"} Observation */

/**
 * What one block makes of a shift.
 * @typedef {object} Finding
 * @property {Geometry} geometry
 * @property {Prediction} theory
 * @property {Observation} observed
 * @property {number} error the one that theory speaks of: of a map its equivariance error, else the invariance error
 * @property {number} control the same of a map that was moved one step wrong; else of another image
 * @property {number} full the equivariance error of the full frame; NaN where there are no positions
 * @property {number} sharp the error of the same network without its blur; NaN where that is not asked
 * @property {readonly number[]} move of the map
 * @property {Moved | null} moved
 * @property {Part} part
 */

/**
 * What is added up over images.
 * @typedef {object} Part
 * @property {boolean} keeps positions
 * @property {boolean} silent the output is the same for every image, up to rounding of what it was computed from
 * @property {Sums} error
 * @property {Sums} control
 * @property {number} positions how many were compared
 * @property {Sums} invariance distances, not squares
 */

const NOTHING = /** @type {Sums} */ ([0, 0])

/** Measures one network; keeps the room that this takes. */
export class Probe {
  /** @param {Chain} chain */
  constructor(chain) {
    this.chain = chain
    this.first = chain.run()
    this.second = chain.run()
    this.other = chain.run()
    this.blank = chain.run()
    this.blurs = chain.blocks.some((_, at) => chain.isBlur(at))
    this.without = this.blurs ? [chain.run(), chain.run()] : []
    /** @type {Geometry[]} */
    this.geometry = []
    /** @type {number[]} */
    this.scales = []
    /** @type {number[]} */
    this.largest = [] // of all activations up to a block, that is the size of what rounds
  }

  /**
   * @param {ArrayLike<number>} image as the network takes it
   * @param {ArrayLike<number>} unrelated likewise
   * @param {number} background
   */
  take(image, unrelated, background) {
    const { chain } = this
    this.background = background
    this.blank.outputs[0].data.fill(background)
    chain.forward(this.blank)
    for (const [run, pixels] of /** @type {[Run, ArrayLike<number>][]} */ ([[this.first, image], [this.other, unrelated]])) {
      run.outputs[0].data.set(pixels)
      chain.forward(run)
    }
    if (this.blurs) {
      this.without[0].outputs[0].data.set(image)
      chain.forward(this.without[0], true)
    }
    this.geometry = trace(chain, this.first)
    let top = 0
    this.largest = this.first.outputs.slice(1).map((_, at) => (top = Math.max(top, this.first.outputs[at].data.reduce((a, v) => Math.max(a, Math.abs(v)), 0))))
    this.scales = this.first.outputs.slice(1).map((a, at) => distance(a, this.other.outputs[at + 1]))
  }

  /**
   * Translate the image, run it, and compare.
   * @param {number} dy
   * @param {number} dx
   * @param {boolean} wrap
   * @returns {Finding[]}
   */
  measure(dy, dx, wrap) {
    this.move(dy, dx, wrap)
    const theory = this.geometry.map((one) => expect(one, dy, dx, wrap))
    if (theory.some(({ expectation }) => expectation === "approximate")) {
      this.without[1].outputs[0].data.set(this.second.outputs[0].data)
      this.chain.forward(this.without[1], true)
    }
    return this.geometry.map((geometry, at) => this.finding(geometry, at, [dy, dx], wrap, theory[at]))
  }

  /**
   * Run the network on the image moved.
   * @param {number} dy
   * @param {number} dx
   * @param {boolean} wrap
   */
  move(dy, dx, wrap) {
    const [image, moved] = [this.first.outputs[0], this.second.outputs[0]]
    shifted(image, dy, dx, wrap, () => this.background ?? 0, moved)
    this.chain.forward(this.second)
  }

  /**
   * @param {Geometry} geometry
   * @param {number} at
   * @param {[number, number]} t
   * @param {boolean} wrap
   * @param {Prediction} theory
   * @returns {Finding}
   */
  finding(geometry, at, t, wrap, theory) {
    const [a, b, other] = [this.first, this.second, this.other].map(({ outputs }) => outputs[at + 1])
    const scale = this.scales[at]
    const { grid } = geometry
    /** @type {Sums} */
    const invariance = [distance(a, b), scale]
    const silent = scale <= TOLERANCE * this.largest[at] && invariance[0] <= TOLERANCE * this.largest[at]
    const moves = grid ? movesOf(grid, t, wrap) : []
    const moved = grid && moves.length ? best(a, b, grid, t, moves, wrap) : null
    const wrong = grid && moved ? best(a, b, grid, t, [wrongMove(grid, t, wrap)], wrap) : null
    /** @type {Part} */
    const part = { keeps: grid !== null, silent, error: NOTHING, control: NOTHING, positions: moved?.positions ?? 0, invariance }
    if (moved) part.error = decisive(moved)
    if (wrong) part.control = decisive(wrong)
    const observed = observation([part])
    const error = grid ? relative(part.error) : invariance[0] / scale
    const control = grid ? relative(part.control) : distance(b, other) / scale
    const sharp = grid && theory.expectation === "approximate" ? this.sharpError(at, grid, t, moves, wrap) : NaN
    const full = moved ? relative(moved.full) : NaN
    return { geometry, theory: afterwards(theory, observed), observed, error, control, full, sharp, move: moved?.move ?? [0, 0], moved, part }
  }

  /**
   * @param {number} at
   * @param {NonNullable<Geometry["grid"]>} grid
   * @param {readonly number[]} t
   * @param {readonly number[][]} moves
   * @param {boolean} wrap
   */
  sharpError(at, grid, t, moves, wrap) {
    const [a, b] = this.without.map(({ outputs }) => outputs[at + 1])
    const moved = best(a, b, grid, t, moves, wrap)
    return moved ? relative(decisive(moved)) : NaN
  }
}

/**
 * What is seen of one image, or of several: their squares, and of invariance their distances, are added up.
 * @param {readonly Part[]} parts
 * @returns {Observation}
 */
export function observation(parts) {
  const [error, control, invariance] = /** @type {const} */ (["error", "control", "invariance"]).map((name) => {
    return /** @type {Sums} */ ([0, 1].map((i) => parts.reduce((sum, part) => sum + part[name][i], 0)))
  })
  const { keeps } = parts[0]
  const found = keeps ? relative(error) : invariance[0] / invariance[1]
  if (parts.every(({ silent }) => silent)) return "degenerate" // rounding, however large beside other rounding
  if (Number.isNaN(invariance[0] / invariance[1]) && found !== Infinity) return "degenerate"
  if (Number.isNaN(found)) return parts.some(({ positions }) => positions) ? "degenerate" : "nothing"
  if (found > TOLERANCE) return "not exact"
  return relative(control) <= TOLERANCE ? "degenerate" : "exact"
}

/**
 * What theory says after an observation that it did not rule out.
 * @param {Prediction} theory
 * @param {Observation} observed
 * @returns {Prediction}
 */
export function afterwards(theory, observed) {
  const blank = theory.unlessBlank && observed === "exact"
  return blank ? { expectation: "untestable", why: `${theory.why}; but no content is there` } : theory
}

/**
 * Every channel moved by whole positions.
 * @param {Tensor} x
 * @param {number} dy
 * @param {number} dx
 * @param {boolean} wrap
 * @param {(channel: number) => number} fill what enters otherwise
 * @param {Tensor} out overwritten
 */
export function shifted(x, dy, dx, wrap, fill, out) {
  const [channels, height, width] = x.shape
  const places = [dy, dx].map((t, axis) => {
    const n = [height, width][axis]
    return padded(n, Math.max(t, 0), Math.max(-t, 0), wrap ? "circular" : "zeros").subarray(Math.max(-t, 0), Math.max(-t, 0) + n)
  })
  for (let c = 0, at = 0; c < channels; c++) {
    const enters = fill(c)
    for (const i of places[0]) {
      for (const j of places[1]) out.data[at++] = i < 0 || j < 0 ? enters : x.data[(c * height + i) * width + j]
    }
  }
}
