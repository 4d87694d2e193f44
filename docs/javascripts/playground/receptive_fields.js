// What the outputs of each block see: step, period, receptive field, interior. As `lab.metering.receptive_fields`.

import { findPattern, gcd, isCircle, lcm, ofImage } from "./origins.js"
import { originOf, tiedShare } from "./operations.js"

/** @typedef {import("./chain.js").Chain} Chain */
/** @typedef {import("./chain.js").Run} Run */
/** @typedef {import("./origins.js").Facts} Facts */
/** @typedef {import("./origins.js").Line} Line */
/** @typedef {import("./origins.js").Origin} Origin */

/**
 * The windows of a block's outputs along one axis of the image.
 * @typedef {object} Axis
 * @property {number} size of the image, pixels
 * @property {number} outputs
 * @property {[number, number] | null} step pixels from one output to the next, as a fraction; null where there is no grid
 * @property {number | null} period
 * @property {[number, number]} interior from, and up to but not including
 * @property {number | null} receptiveField
 * @property {number | null} offset the first pixel of output 0's window
 * @property {boolean} circular
 */

/**
 * @typedef {object} Geometry
 * @property {string} name
 * @property {[Axis, Axis] | null} grid null where no positions are kept
 * @property {boolean} flat it keeps positions, but not as rows and columns
 * @property {Facts} facts
 * @property {boolean} circular nothing on the way ends at the frame
 */

/**
 * @param {Chain} chain
 * @param {Run} run on the image: adaptive sampling chooses by it
 * @returns {Geometry[]}
 */
export function trace(chain, run) {
  const { blocks, names, shapes } = chain
  const size = shapes[0][1]
  /** @type {Origin[]} */
  const origins = [ofImage(size)]
  return blocks.map((block, at) => {
    const own = block.kind === "linear" ? chain.weights[at] : null
    const ties = own && shapes[at].length === 3 ? tiedShare(own.weight, origins[at], shapes[at]) : 1
    const around = { blurs: chain.isBlur(at), ties, phase: run.phases.get(at) ?? /** @type {[number, number]} */ ([0, 0]) }
    const sizes = shapes.slice(0, at + 2).map((shape) => [...shape])
    const origin = originOf({ block, name: names[at], before: origins.slice(0, at + 1), shapes: sizes, size, ...around })
    origins.push(origin)
    return geometryOf(names[at], origin, shapes[at + 1], size)
  })
}

/**
 * @param {string} name
 * @param {Origin} origin
 * @param {readonly number[]} shape
 * @param {number} size
 * @returns {Geometry}
 */
function geometryOf(name, { along, facts }, shape, size) {
  const places = along.some((lines) => lines[0].at.length > 1)
  if (shape.length === 1 || !places || along.some((lines) => hasMore(lines, size))) {
    return { name, grid: null, flat: places, facts, circular: facts.closed.every(Boolean) }
  }
  const grid = /** @type {[Axis, Axis]} */ (along.map((lines, axis) => axisOf(lineOf(lines), size, facts, axis)))
  const period = /** @type {[number, number]} */ (grid.map((axis, i) => axis.period ?? facts.period[i]))
  const other = period.some((one, i) => one !== facts.period[i])
  const known = other ? { ...facts, period, subsampling: name } : facts
  return { name, grid, flat: false, facts: known, circular: facts.closed.every(Boolean) && grid.every(({ circular }) => circular) }
}

/**
 * Whether what channels see is far apart.
 * @param {readonly Line[]} lines
 * @param {number} size
 */
function hasMore(lines, size) {
  if (lines.length === 1) return false
  let apart = 0
  for (const row of /** @type {const} */ (["at", "low", "high"])) {
    lines[0][row].forEach((_, i) => {
      const known = lines.map((line) => line[row][i]).filter(Number.isFinite)
      if (known.length) apart = Math.max(apart, Math.max(...known) - Math.min(...known))
    })
  }
  return 2 * apart >= size
}

/**
 * What is known of the outputs, whatever their channel.
 * @param {readonly Line[]} lines
 * @returns {Line}
 */
function lineOf(lines) {
  const each = (/** @type {keyof Line} */ row, /** @type {(values: number[]) => number} */ make) =>
    lines[0].at.map((_, i) => make(lines.map((line) => line[row][i])))
  const known = (/** @type {number} */ value) => (Number.isNaN(value) ? Infinity : value)
  return {
    at: each("at", (values) => Math.min(...values.map(known))),
    low: each("low", (values) => Math.min(...values)),
    high: each("high", (values) => Math.max(...values)),
    pad: each("pad", (values) => Math.max(...values)),
  }
}

/**
 * @param {Line} line
 * @param {number} size
 * @param {Facts} facts
 * @param {number} axis
 * @returns {Axis}
 */
function axisOf(line, size, facts, axis) {
  const outputs = line.at.length
  const pattern = findPattern(line)
  if (!pattern) {
    const base = { size, outputs, step: null, period: null, receptiveField: null, offset: null }
    return { ...base, interior: [0, 0], circular: false }
  }
  const { every, distance } = pattern
  const expected = continued(line, every, distance)
  const near = (/** @type {number} */ a, /** @type {number} */ b) => a === b || Math.abs(a - b) < 1e-3
  const regular = line.at.map((p, j) => near(p, expected.at[j]) && near(line.low[j], expected.low[j]) && near(line.high[j], expected.high[j]))
  const inside = regular.map((one, j) => one && line.low[j] >= 0 && line.high[j] <= size - 1 && line.pad[j] === 0)
  const widest = Math.max(...line.high.map((high, j) => (regular[j] ? high - line.low[j] : -Infinity))) + 1
  const divisor = gcd(distance, every)
  return {
    size,
    outputs,
    step: [distance / divisor, every / divisor],
    period: lcm(facts.period[axis], distance),
    interior: longestRun(inside),
    receptiveField: Number.isFinite(widest) ? widest : null,
    offset: Number.isFinite(widest) ? Math.trunc(expected.low[0]) + 0 : null,
    circular: regular.every(Boolean) && distance * outputs === size * every && isCircle([line], size) && facts.closed[axis],
  }
}

/**
 * Where outputs stand and what they see, if all go on as those in the middle do.
 * @param {Line} line
 * @param {number} every
 * @param {number} distance
 */
function continued(line, every, distance) {
  const outputs = line.at.length
  const middle = Math.floor(outputs / 2)
  const alike = line.at.map((_, j) => {
    const place = middle + ((((j - middle) % every) + every) % every)
    return place >= outputs ? place - every : place
  })
  const go = (/** @type {number[]} */ row) => row.map((_, j) => row[alike[j]] + ((j - alike[j]) / every) * distance)
  return { at: go(line.at), low: go(line.low), high: go(line.high) }
}

/**
 * @param {readonly boolean[]} values
 * @returns {[number, number]}
 */
function longestRun(values) {
  /** @type {[number, number]} */
  let best = [0, 0]
  let begin = 0
  for (let j = 0; j <= values.length; j++) {
    if (j < values.length && values[j]) continue
    if (j - begin > best[1] - best[0]) best = [begin, j]
    begin = j + 1
  }
  return best
}
