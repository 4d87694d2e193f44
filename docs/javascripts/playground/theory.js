// What theory says of a block under a shift: as `lab.metering.theory`, word for word.

import { free } from "./comparison.js"

/** @typedef {import("./receptive_fields.js").Axis} Axis */
/** @typedef {import("./receptive_fields.js").Geometry} Geometry */
/** @typedef {"exact" | "approximate" | "broken" | "untestable"} Expectation */
/** @typedef {{ expectation: Expectation, why: string, unlessBlank?: boolean }} Prediction */

const TIED = 1 - 1e-6

/**
 * @param {Expectation} expectation
 * @param {string} why
 * @returns {Prediction}
 */
const says = (expectation, why) => ({ expectation, why })

/**
 * @param {Geometry} block
 * @param {number} dy pixels down
 * @param {number} dx pixels right
 * @param {boolean} wrap whether what leaves the frame enters on the other side
 * @returns {Prediction}
 */
export function expect(block, dy, dx, wrap) {
  if (!dy && !dx) return says("exact", "nothing moves")
  const { facts } = block
  const weighed = (facts.weighed[0] && dy !== 0) || (facts.weighed[1] && dx !== 0)
  if (weighed && !(facts.ties >= TIED)) {
    return says("broken", `${facts.head} weighs positions differently (ρ = ${twoDigits(facts.ties)}, 1 is tied)`)
  }
  if (block.flat) return says("untestable", "it keeps positions, but not as rows and columns of the image")
  return byTheFrame(block, [dy, dx], wrap)
}

/**
 * As Python's `.2g`.
 * @param {number} value
 */
function twoDigits(value) {
  if (Number.isNaN(value)) return "nan"
  const [digits, power] = value.toExponential(1).split("e")
  const exponent = Number(power)
  if (exponent >= -4 && exponent < 2) return String(Number(value.toPrecision(2)))
  return `${Number(digits)}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`
}

/**
 * @param {Geometry} block
 * @param {readonly [number, number]} t
 * @param {boolean} wrap
 * @returns {Prediction}
 */
function byTheFrame(block, t, wrap) {
  const { facts, grid } = block
  if (wrap && block.circular) return onTheGrid(block, t, "everywhere: nothing in front of it ends at the frame")
  if (!grid) {
    const closed = onTheGrid(block, t, "")
    return closed.expectation === "exact" ? says("broken", "pooled over all positions, and what crosses the border changes it") : closed
  }
  if (facts.mixing) {
    const why = `from ${facts.mixing} on, every output sees the whole image, the border included`
    return { expectation: "broken", why, unlessBlank: true }
  }
  if (facts.chosen) return says("untestable", `${facts.chosen} chooses the positions by the data, the border included`)
  for (const axis of [0, 1]) {
    const reason = t[axis] ? untestable(grid[axis], t[axis], wrap) : ""
    if (reason) return says("untestable", reason)
  }
  return onTheGrid(block, t, "away from the border")
}

/**
 * @param {Axis} axis
 * @param {number} pixels
 * @param {boolean} wrap
 */
function untestable(axis, pixels, wrap) {
  if (axis.outputs === 1) return "a single output along the shift: nothing can move"
  if (!axis.step) return "its outputs do not lie on a regular grid of the image"
  if (free(axis, pixels, wrap)) return ""
  const window = axis.receptiveField ? `receptive field ${axis.receptiveField} px` : "every output sees all"
  return `${window}, image ${axis.size} px, shift ${pixels} px: no output is free of the border`
}

/**
 * @param {Geometry} block
 * @param {readonly [number, number]} t
 * @param {string} where
 * @returns {Prediction}
 */
function onTheGrid(block, t, where) {
  const s = said(block)
  if (divides(block.facts.period, t)) return says("exact", where ? `S = ${s} divides the shift; ${where}` : "")
  return offTheGrid(block, t, `S = ${s} does not divide the shift`, where)
}

/** @param {Geometry} block */
function said({ facts }) {
  return [...new Set(facts.period)].join("×")
}

/**
 * @param {Geometry} block
 * @param {readonly [number, number]} t
 * @param {string} off
 * @param {string} where
 * @returns {Prediction}
 */
function offTheGrid(block, t, off, where) {
  const { facts, grid } = block
  if (facts.blurred && divides(facts.sharp, t)) return says("approximate", `${off}; ${facts.blurred} blurs first`)
  const steps = grid && grid.every(({ step }) => step) ? grid.map(({ step }) => (step ? step[0] / step[1] : 0)) : []
  if (facts.chosen && grid && steps.some((step, i) => step !== facts.period[i])) {
    return says("untestable", `${off}; ${facts.chosen} chooses among positions that are finer than S`)
  }
  if (facts.chosen && block.circular && divides(facts.sharp, t)) {
    return says("exact", `${facts.chosen} chooses the positions by the data, ties aside; ${where}`)
  }
  return says("broken", facts.subsampling ? `${off}: ${facts.subsampling} skips positions` : off)
}

/**
 * @param {readonly number[]} period
 * @param {readonly number[]} t
 */
export function divides(period, t) {
  return t.every((pixels, axis) => pixels % period[axis] === 0)
}
