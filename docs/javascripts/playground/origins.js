// Where each value of a network comes from, along rows and along columns: as `lab.metering.origins`.

/**
 * What is known of the outputs along one axis: the pixel at which each stands, NaN if at none; the first and the last
 * pixel that it was computed from, infinite if from all of them; and whether padding entered. One entry if all are alike.
 * @typedef {object} Line
 * @property {number[]} at
 * @property {number[]} low
 * @property {number[]} high
 * @property {number[]} pad
 */
/** @typedef {[number, number]} Pair of rows and columns */

/**
 * What is true of all values: see `Facts` in Python.
 * @typedef {object} Facts
 * @property {Pair} period S, the smallest shift in pixels under which the values can move exactly
 * @property {Pair} sharp the same without the strides that blur first
 * @property {Pair} meanPeriod the same of the mean over all positions
 * @property {Pair} maxPeriod the same of the maximum
 * @property {[boolean, boolean]} closed whatever was summed up went once around a circle
 * @property {string} head the block that weighs each position by itself
 * @property {[boolean, boolean]} weighed along which axes it does
 * @property {number} ties ρ of its weights
 * @property {string} mixing the first block in which every output sees every position
 * @property {string} chosen the block in which the data chose the positions
 * @property {string} blurred the last stride that blurs first
 * @property {string} subsampling the last stride that does not
 */

/**
 * Where the values of a tensor come from: for each axis one line for each channel, or one for all.
 * @typedef {object} Origin
 * @property {[Line[], Line[]]} along
 * @property {Facts} facts
 */

const PERIODS = /** @type {const} */ (["period", "sharp", "meanPeriod", "maxPeriod"])
const LONGEST = 128

/** @returns {Facts} */
export function noFacts() {
  const one = () => /** @type {Pair} */ ([1, 1])
  return {
    ...{ period: one(), sharp: one(), meanPeriod: one(), maxPeriod: one(), closed: [true, true] },
    ...{ head: "", weighed: [false, false], ties: 1, mixing: "", chosen: "", blurred: "", subsampling: "" },
  }
}

/**
 * Of the pixels themselves.
 * @param {number} size
 * @returns {Origin}
 */
export function ofImage(size) {
  const line = () => {
    const p = Array.from({ length: size }, (_, i) => i)
    return { at: p, low: p, high: p, pad: p.map(() => 0) }
  }
  return { along: [[line()], [line()]], facts: noFacts() }
}

/**
 * @param {number} a
 * @param {number} b
 * @returns {number}
 */
export function gcd(a, b) {
  return b ? gcd(b, a % b) : a
}

/**
 * @param {number} a
 * @param {number} b
 */
export function lcm(a, b) {
  return (a / gcd(a, b)) * b
}

/**
 * Other values along one axis.
 * @param {Facts} facts
 * @param {0 | 1} axis
 * @param {Partial<{ [K in keyof Facts]: any }>} values
 * @returns {Facts}
 */
export function along(facts, axis, values) {
  const found = /** @type {any} */ ({ ...facts })
  for (const [name, value] of Object.entries(values)) {
    found[name] = axis ? [found[name][0], value] : [value, found[name][1]]
  }
  return found
}

/**
 * Where the values are the same again after some pixels only.
 * @param {Facts} facts
 * @param {0 | 1} axis
 * @param {number} distance
 * @param {readonly string[]} [keeps]
 */
export function withPeriod(facts, axis, distance, keeps = []) {
  const names = PERIODS.filter((name) => !keeps.includes(name))
  return along(facts, axis, Object.fromEntries(names.map((name) => [name, lcm(facts[name][axis], distance)])))
}

/**
 * The pairwise least common multiple.
 * @param {Pair} a
 * @param {Pair} b
 * @returns {Pair}
 */
export function lcms(a, b) {
  return [lcm(a[0], b[0]), lcm(a[1], b[1])]
}

/**
 * Of values that are computed from both.
 * @param {Facts} a
 * @param {Facts} b
 * @returns {Facts}
 */
export function joined(a, b) {
  const [own, other] = [a, b].map((one) => (one.head ? one.ties : 2))
  const loosest = other < own ? b : a
  const periods = Object.fromEntries(PERIODS.map((name) => [name, lcms(a[name], b[name])]))
  return {
    ...a,
    ...periods,
    closed: [a.closed[0] && b.closed[0], a.closed[1] && b.closed[1]],
    weighed: [a.weighed[0] || b.weighed[0], a.weighed[1] || b.weighed[1]],
    head: loosest.head,
    ties: loosest.ties,
    mixing: a.mixing || b.mixing,
    chosen: a.chosen || b.chosen,
    blurred: a.blurred || b.blurred,
    subsampling: a.subsampling || b.subsampling,
  }
}

/**
 * How far the finite ones are apart.
 * @param {readonly number[]} values
 */
export function extent(values) {
  const known = values.filter(Number.isFinite)
  return known.length ? Math.max(...known) - Math.min(...known) : 0
}

/**
 * Halfway between the first and the last of some numbers; NaN if there is none.
 * @param {readonly number[]} values
 */
export function halfway(values) {
  const known = values.filter((value) => !Number.isNaN(value))
  return known.length ? (Math.min(...known) + Math.max(...known)) / 2 : NaN
}

/**
 * Whether there are several different ones.
 * @param {readonly number[]} values
 */
export function differ(values) {
  const known = values.filter((value) => !Number.isNaN(value))
  return known.some((value) => value !== known[0])
}

/** @param {readonly number[]} values */
function unique(values) {
  return [...new Set(values)].sort((a, b) => a - b)
}

/**
 * How positions go on: `every` outputs later, all is `distance` pixels later. Null if nothing holds in the middle half.
 * @param {Line} line
 * @returns {{ every: number, distance: number } | null}
 */
export function findPattern({ at, low, high }) {
  const n = at.length
  const rows = [at, low, high].filter((row) => row.some(Number.isFinite) && row.some((value) => value !== row[0]))
  const longest = rows[0] === at ? Math.min(Math.max(Math.floor(n / 2), 1), LONGEST) : 0
  for (let every = 1; every <= longest; every++) {
    const count = n - every
    const cut = n > 8 ? Math.floor(count / 4) : 0
    const first = at[cut + every] - at[cut]
    const distance = Number.isFinite(first) ? Math.round(first) : 0
    if (distance > 0 && holds(rows, every, distance, cut, count - cut) && turnsBack(at, cut) <= (2 * every <= n ? distance : 0)) {
      return { every, distance }
    }
  }
  return null
}

/**
 * @param {readonly number[][]} rows
 * @param {number} every
 * @param {number} distance
 * @param {number} from
 * @param {number} to
 */
function holds(rows, every, distance, from, to) {
  for (const row of rows) {
    for (let i = from; i < to; i++) if (!(Math.abs(row[i + every] - row[i] - distance) < 1e-3)) return false
  }
  return true
}

/**
 * By how much positions go back, at most, between the cuts.
 * @param {readonly number[]} at
 * @param {number} cut
 */
function turnsBack(at, cut) {
  let least = Infinity
  for (let i = cut; i < Math.min(at.length - 1, at.length - cut); i++) least = Math.min(least, at[i + 1] - at[i])
  return -least
}

/**
 * Whether positions, and what is seen from them, repeat all around the image, and no padding enters.
 * @param {readonly Line[]} lines
 * @param {number} size
 */
export function isCircle(lines, size) {
  /** @type {Map<number, string[]>} */
  const seen = new Map()
  for (const { at, low, high, pad } of lines) {
    if (pad.some(Boolean)) return false
    at.forEach((p, i) => {
      if (Number.isNaN(p)) return
      const place = ((p % size) + size) % size
      seen.set(place, [...(seen.get(place) ?? []), `${p - low[i]} ${high[i] - p}`])
    })
  }
  const places = unique([...seen.keys()])
  if (!places.length) return false
  const turn = places.map((place, i) => {
    const next = i + 1 < places.length ? places[i + 1] : places[0] + size
    return `${(next - place).toFixed(3)}: ${(seen.get(place) ?? []).sort().join(", ")}`
  })
  const repeats = (/** @type {number} */ every) => turn.every((one, i) => one === turn[(i + every) % turn.length])
  if (turn.length === 1) return true
  for (let every = 1; 2 * every <= turn.length; every++) if (turn.length % every === 0 && repeats(every)) return true
  return false
}

/**
 * From one position to the next, in pixels; 0 if there is no next, or no whole number of pixels.
 * @param {readonly Line[]} lines
 */
export function distanceOf(lines) {
  const places = unique(lines.flatMap(({ at }) => at.filter((p) => !Number.isNaN(p))))
  let least = Infinity
  for (let i = 1; i < places.length; i++) least = Math.min(least, places[i] - places[i - 1])
  return Number.isInteger(least) ? least : 0
}

/**
 * One line for all channels, if theirs are the same.
 * @param {readonly Line[]} lines
 * @returns {Line[]}
 */
export function tight(lines) {
  const said = (/** @type {Line} */ line) => [line.at, line.low, line.high, line.pad].join(";")
  const first = said(lines[0])
  return lines.every((line) => line === lines[0] || said(line) === first) ? [lines[0]] : [...lines]
}
