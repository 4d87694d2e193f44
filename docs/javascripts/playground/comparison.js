// What is compared, and how far it is from equal: J, the moves, the errors and their controls, as `lab.metrics`.

/** @typedef {import("./computing.js").Tensor} Tensor */
/** @typedef {import("./receptive_fields.js").Axis} Axis */
/** @typedef {import("./receptive_fields.js").Geometry} Geometry */
/** @typedef {[number, number]} Sums ‖difference‖², and the same of what it is relative to */
/** @typedef {[Axis, Axis]} Grid */

/** float64: what rounding may do to an exact block. */
export const TOLERANCE = 1e-12
const TIE = 1e-5 // a move's error within this of the smallest, relatively: rounding must not choose between them

/**
 * A map moved by whole positions, against that of the moved image.
 * @typedef {object} Moved
 * @property {readonly number[]} move
 * @property {Sums} interior on J
 * @property {Sums} full of every position that has a counterpart
 * @property {number} positions that were compared
 * @property {number} inside how many of them are in J
 */

/**
 * @param {Sums} sums
 * @returns {number} NaN for 0 / 0
 */
export function relative([difference, scale]) {
  return Math.sqrt(difference / scale)
}

/**
 * The error that theory speaks of: on J, or on the full frame where J is empty.
 * @param {Moved} moved
 * @returns {Sums}
 */
export function decisive({ interior, full, inside }) {
  return inside > 0 ? interior : full
}

/**
 * Whether the outputs go evenly round the image.
 * @param {Axis} axis
 */
function rolls({ step, outputs, size, period }) {
  return step !== null && step[0] * outputs === size * step[1] && period !== null && size % period === 0
}

/**
 * The whole moves next to a shift: one where t / step is whole, else two.
 * @param {Axis} axis
 * @param {number} t
 * @param {boolean} wrap
 * @returns {number[]}
 */
export function movesAlong(axis, t, wrap) {
  const [pixels, every] = axis.step ?? [axis.size, axis.outputs]
  const steps = (t * every) / pixels
  const both = [...new Set([Math.floor(steps) + 0, Math.ceil(steps) + 0])]
  return both.filter((m) => Math.abs(m) < axis.outputs || (wrap && rolls(axis)))
}

/**
 * The set J along one axis: pairs of outputs, of the moved image and of the image, and whether both are inside.
 * @param {Axis} axis
 * @param {number} move
 * @param {boolean} wrap
 * @param {boolean} still the shift is not along this axis
 * @returns {{ here: number[], there: number[], inside: boolean[] }}
 */
export function comparable(axis, move, wrap, still) {
  const n = axis.outputs
  const round = wrap && rolls(axis)
  const here = Array.from({ length: n }, (_, j) => j).filter((j) => round || (j - move >= 0 && j - move < n))
  const there = here.map((j) => (round ? (((j - move) % n) + n) % n : j - move))
  const free = (/** @type {number} */ j) => still || (j >= axis.interior[0] && j < axis.interior[1])
  return { here, there, inside: here.map((j, i) => (round && axis.circular) || (free(j) && free(there[i]))) }
}

/**
 * Whether some output is free of the border in an image and in its translation.
 * @param {Axis} axis
 * @param {number} t
 * @param {boolean} wrap
 */
export function free(axis, t, wrap) {
  return movesAlong(axis, t, wrap).some((m) => comparable(axis, m, wrap, t === 0).inside.some(Boolean))
}

/**
 * @param {Grid} grid
 * @param {readonly number[]} t
 * @param {boolean} wrap
 * @returns {number[][]}
 */
export function movesOf(grid, t, wrap) {
  return movesAlong(grid[0], t[0], wrap).flatMap((y) => movesAlong(grid[1], t[1], wrap).map((x) => [y, x]))
}

/**
 * The control's move: one output beside the right ones, along the axes that the shift is along, or both.
 * @param {Grid} grid
 * @param {readonly number[]} t
 * @param {boolean} wrap
 */
export function wrongMove(grid, t, wrap) {
  const wide = grid.map(({ outputs }) => outputs > 1)
  const moved = wide.map((one, axis) => one && t[axis] !== 0)
  const wrong = moved.some(Boolean) ? moved : wide
  return grid.map((axis, i) => {
    const right = movesAlong(axis, t[i], wrap)
    const last = right[right.length - 1]
    return wrong[i] ? (last > 0 ? right[0] - 1 : last + 1) : right[0]
  })
}

/**
 * f(T x) against f(x) moved by whole positions of the map.
 * @param {Tensor} first f(x)
 * @param {Tensor} second f(T x)
 * @param {Grid} grid
 * @param {readonly number[]} t
 * @param {readonly number[]} move
 * @param {boolean} wrap
 * @returns {Moved}
 */
export function compared(first, second, grid, t, move, wrap) {
  const [channels, height, width] = first.shape
  const [rows, columns] = grid.map((axis, i) => comparable(axis, move[i], wrap, t[i] === 0))
  /** @type {Sums} */
  const interior = [0, 0]
  /** @type {Sums} */
  const border = [0, 0]
  for (let c = 0; c < channels; c++) {
    for (let r = 0; r < rows.here.length; r++) {
      const here = (c * height + rows.here[r]) * width
      const there = (c * height + rows.there[r]) * width
      const inside = rows.inside[r]
      for (let q = 0; q < columns.here.length; q++) {
        const expected = first.data[there + columns.there[q]]
        const difference = second.data[here + columns.here[q]] - expected
        const sums = inside && columns.inside[q] ? interior : border
        sums[0] += difference * difference
        sums[1] += expected * expected
      }
    }
  }
  const [inner, all] = [(/** @type {boolean[]} */ one) => one.filter(Boolean).length, rows.here.length * columns.here.length]
  const full = /** @type {Sums} */ ([interior[0] + border[0], interior[1] + border[1]])
  return { move, interior, full, positions: all, inside: inner(rows.inside) * inner(columns.inside) }
}

/**
 * The move that fits best; those that leave an interior come first. Null if the map leaves the frame.
 * @param {Tensor} first
 * @param {Tensor} second
 * @param {Grid} grid
 * @param {readonly number[]} t
 * @param {readonly number[][]} moves
 * @param {boolean} wrap
 * @returns {Moved | null}
 */
export function best(first, second, grid, t, moves, wrap) {
  const all = moves.map((move) => compared(first, second, grid, t, move, wrap))
  const inside = all.filter((one) => one.inside > 0)
  const candidates = inside.length ? inside : all
  const errors = candidates.map((one) => {
    const error = relative(decisive(one))
    return Number.isNaN(error) ? 0 : error
  })
  const least = Math.min(...errors)
  return candidates[errors.findIndex((error) => error <= (1 + TIE) * least)] ?? null
}

/**
 * @param {Tensor} a
 * @param {Tensor} b
 */
export function distance(a, b) {
  let square = 0
  for (let i = 0; i < a.data.length; i++) square += (a.data[i] - b.data[i]) ** 2
  return Math.sqrt(square)
}
