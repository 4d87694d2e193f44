// What each block makes of where values come from: as `lab.metering.operations`, for the blocks of this page.

import { numberOf, padsOf } from "./blocks.js"
import { along, differ, distanceOf, extent, findPattern, gcd, halfway, isCircle, joined, lcms, tight, withPeriod } from "./origins.js"

/** @typedef {import("./blocks.js").Block} Block */
/** @typedef {import("./origins.js").Facts} Facts */
/** @typedef {import("./origins.js").Line} Line */
/** @typedef {import("./origins.js").Origin} Origin */
/** @typedef {0 | 1} Axis */

/**
 * A block, and what is known of it besides.
 * @typedef {object} Call
 * @property {Block} block
 * @property {string} name
 * @property {Origin[]} before where the image's values and those of all blocks before it come from
 * @property {readonly number[][]} shapes of the same, and of what it returns
 * @property {number} size of the image, pixels
 * @property {boolean} blurs whether it is a stride that blurs
 * @property {number} ties ρ of its weights, if it is fully connected
 * @property {readonly [number, number]} phase which position adaptive sampling chose first
 */

const TIED = 1 - 1e-6

/**
 * @param {Origin} origin
 * @param {(lines: Line[], axis: Axis) => Line[]} change
 * @returns {Origin}
 */
function changed(origin, change) {
  return { along: [change(origin.along[0], 0), change(origin.along[1], 1)], facts: origin.facts }
}

/**
 * Each output is computed from some inputs, also such as lie beyond the ends.
 * @param {Origin} origin
 * @param {readonly number[][]} taps for each output
 * @param {number} size
 */
function windows(origin, taps, size) {
  return changed(origin, (lines) => tight(lines.map((line) => taken(countedOn(line, size), taps))))
}

/**
 * Where positions jump back to the other side of the image, as in circular padding, they are counted on instead.
 * @param {Line} line
 * @param {number} size
 * @returns {Line}
 */
function countedOn(line, size) {
  let turn = 0
  const turns = line.at.map((p, i, at) => (turn += i && p - at[i - 1] <= -size / 2 ? 1 : 0))
  if (!turn) return line
  const middle = turns[Math.floor(turns.length / 2)]
  const [at, low, high] = [line.at, line.low, line.high].map((row) => row.map((p, i) => p + (turns[i] - middle) * size))
  return { at, low, high, pad: line.pad }
}

/**
 * @param {Line} line
 * @param {readonly number[][]} taps
 * @returns {Line}
 */
function taken(line, taps) {
  const n = line.at.length
  const { every, distance } = findPattern(line) ?? { every: 1, distance: 0 }
  /** @type {Line} */
  const found = { at: [], low: [], high: [], pad: [] }
  for (const inputs of taps) {
    const seen = inputs.map((tap) => {
      const turns = tap < 0 ? Math.floor(tap / every) : tap >= n ? Math.floor((tap - n) / every) + 1 : 0
      const inside = Math.min(Math.max(tap - turns * every, 0), n - 1)
      return { inside, beyond: turns * distance, outside: tap < 0 || tap >= n }
    })
    found.at.push(halfway(seen.map(({ inside, beyond }) => line.at[inside] + beyond)))
    found.low.push(Math.min(...seen.map(({ inside, beyond }) => line.low[inside] + beyond)))
    found.high.push(Math.max(...seen.map(({ inside, beyond }) => line.high[inside] + beyond)))
    found.pad.push(Math.max(...seen.map(({ inside, outside }) => Math.max(line.pad[inside], outside ? 1 : 0))))
  }
  return found
}

/**
 * @param {number} outputs
 * @param {number} kernel
 * @param {number} stride
 * @param {number} padding before the first
 * @param {number} dilation
 */
function windowTaps(outputs, kernel, stride, padding, dilation = 1) {
  return Array.from({ length: outputs }, (_, j) => Array.from({ length: kernel }, (_, i) => j * stride - padding + i * dilation))
}

/**
 * With the distance after which positions repeat, where that is seen along a single dimension.
 * @param {Origin} origin
 * @param {string} place
 * @param {readonly string[]} [keeps]
 * @returns {Origin}
 */
function folded(origin, place, keeps = []) {
  let { facts } = origin
  for (const axis of /** @type {Axis[]} */ ([0, 1])) {
    const lines = origin.along[axis]
    const pattern = lines.length === 1 && lines[0].at.length > 1 ? findPattern(lines[0]) : null
    if (!pattern || facts.period[axis] % pattern.distance === 0) continue
    facts = withPeriod(facts, axis, pattern.distance, keeps)
    if (!keeps.includes("sharp")) facts = { ...facts, subsampling: place }
  }
  return { along: origin.along, facts }
}

/**
 * Summed up over channels, over positions, or over both; `kind` is the period that counts if no position is left.
 * @param {Origin} origin
 * @param {{ channels?: boolean, positions?: boolean }} over
 * @param {number} size
 * @param {"period" | "meanPeriod" | "maxPeriod"} kind
 * @returns {Origin}
 */
function summed(origin, over, size, kind = "period") {
  let { facts } = origin
  const found = changed(origin, (lines, axis) => {
    const wide = (over.channels && lines.length > 1) || (over.positions && lines[0].at.length > 1)
    if (!wide) return lines
    const groups = over.channels ? [lines] : lines.map((line) => [line])
    const left = groups.map((group) => together(group, Boolean(over.positions)))
    const [before, after] = [lines, left].map((some) => extent(some.flatMap(({ at }) => at)))
    if (2 * after < before) {
      for (const line of left) line.at = line.at.map(() => NaN)
      facts = summedUp(facts, axis, lines, size, kind)
    }
    return tight(whole(left, size))
  })
  return { along: found.along, facts }
}

/**
 * @param {readonly Line[]} lines
 * @param {boolean} positions whether a single one is left
 * @returns {Line}
 */
function together(lines, positions) {
  const columns = positions ? [lines.flatMap(({ at }, k) => at.map((_, i) => [k, i]))] : lines[0].at.map((_, i) => lines.map((_, k) => [k, i]))
  const each = (/** @type {keyof Line} */ row, /** @type {(values: number[]) => number} */ make) =>
    columns.map((places) => make(places.map(([k, i]) => lines[k][row][i])))
  const [least, most] = [(/** @type {number[]} */ v) => Math.min(...v), (/** @type {number[]} */ v) => Math.max(...v)]
  return { at: each("at", halfway), low: each("low", least), high: each("high", most), pad: each("pad", most) }
}

/**
 * What sees the whole image sees all, however far it goes on.
 * @param {Line[]} lines
 * @param {number} size
 */
function whole(lines, size) {
  const [low, high] = [lines.flatMap((line) => line.low), lines.flatMap((line) => line.high)]
  if (differ(low) || differ(high) || !low.every((p) => p <= 0) || !high.every((p) => p >= size - 1)) return lines
  return lines.map((line) => ({ ...line, low: line.low.map(() => -Infinity), high: line.high.map(() => Infinity) }))
}

/**
 * Nothing is left of the positions along an axis.
 * @param {Facts} facts
 * @param {Axis} axis
 * @param {readonly Line[]} lines
 * @param {number} size
 * @param {"period" | "meanPeriod" | "maxPeriod"} kind
 */
function summedUp(facts, axis, lines, size, kind) {
  const distance = distanceOf(lines)
  if (distance && facts.period[axis] % distance) facts = withPeriod(facts, axis, distance)
  const closed = facts.closed[axis] && isCircle(lines, size)
  const period = facts[kind][axis]
  const sharp = gcd(facts.sharp[axis], period)
  return along(facts, axis, { closed, sharp, period, meanPeriod: period, maxPeriod: period })
}

/**
 * After anything that is not linear, the mean over all positions is no simpler than the map; nor is the maximum.
 * @param {Origin} origin
 * @param {{ linear?: boolean, monotone?: boolean }} how
 * @returns {Origin}
 */
function after(origin, { linear = false, monotone = false }) {
  let { facts } = origin
  if (!linear) facts = { ...facts, meanPeriod: lcms(facts.period, facts.meanPeriod) }
  if (!monotone) facts = { ...facts, maxPeriod: lcms(facts.period, facts.maxPeriod) }
  return { along: origin.along, facts }
}

/**
 * What lies around a map: around a circle the same positions again, else padding.
 * @param {Origin} origin
 * @param {Call} call
 * @param {boolean} zeros whether a convolution pads with zeros itself, and does not come here for it
 */
function padded(origin, { block, name, size }, zeros) {
  const [before, behind] = padsOf(block)
  const { padding } = block
  if (!before && !behind) return origin
  if (padding === "circular") return changed(origin, (lines) => lines.map((line) => around(line, before, behind)))
  const own = zeros && padding === "zeros" ? before : 0 // the others in front of it
  if (own === before && own === behind) return origin
  const n = origin.along[0][0].at.length
  const taps = Array.from({ length: n + before + behind - 2 * own }, (_, j) => [j - (before - own)])
  return after(folded(windows(origin, taps, size), name), {})
}

/**
 * @param {Line} line
 * @param {number} before
 * @param {number} behind
 * @returns {Line}
 */
function around(line, before, behind) {
  const n = line.at.length
  const wider = (/** @type {number[]} */ row) => [...row.slice(n - before), ...row, ...row.slice(0, behind)]
  return { at: wider(line.at), low: wider(line.low), high: wider(line.high), pad: wider(line.pad) }
}

/** @type {Record<string, (origin: Origin, call: Call) => Origin>} */
const RULES = {
  conv: convolved,
  blur: convolved,
  relu: (origin) => after(origin, { monotone: true }),
  max: (origin, call) => pooled(origin, call, "maxPeriod"),
  avg: (origin, call) => pooled(origin, call, "meanPeriod"),
  aps: chosen,
  norm: normalized,
  gap: (origin, { size }) => summed(origin, { positions: true }, size, "meanPeriod"),
  gmp: (origin, { size }) => summed(origin, { positions: true }, size, "maxPeriod"),
  linear: connected,
  add: (origin, { block, before }) => after(merged(origin, before[numberOf(block, "from")]), { linear: true }),
  cat: beside,
  up: upsampled,
}

/**
 * @param {Origin} origin
 * @param {Call} call
 */
function convolved(origin, call) {
  const { block, name, shapes, size, blurs } = call
  const [stride, dilation] = [numberOf(block, "stride"), Number(block.dilation ?? 1)]
  const own = block.kind === "conv" && block.padding === "zeros" ? padsOf(block)[0] : 0
  let found = padded(origin, call, block.kind === "conv")
  found = block.kind === "conv" ? summed(found, { channels: true }, size) : eachChannel(found, size)
  const outputs = shapes[shapes.length - 1][1]
  found = windows(found, windowTaps(outputs, numberOf(block, "kernel"), stride, own, dilation), size)
  if (stride === 1) return after(folded(found, name), { linear: true })
  found = folded(found, name, blurs ? ["sharp"] : [])
  const facts = blurs ? { ...found.facts, blurred: name } : found.facts
  return after({ along: found.along, facts: { ...facts, meanPeriod: facts.period } }, { linear: true })
}

/**
 * A convolution of each channel by itself: the lab does not tell channels apart there either.
 * @param {Origin} origin
 * @param {number} size
 */
function eachChannel(origin, size) {
  return summed(origin, { channels: true }, size)
}

/**
 * @param {Origin} origin
 * @param {Call} call
 * @param {"meanPeriod" | "maxPeriod"} kind
 * @returns {Origin}
 */
function pooled(origin, { block, name, shapes, size }, kind) {
  const [kernel, stride] = [numberOf(block, "kernel"), numberOf(block, "stride")]
  const taps = windowTaps(shapes[shapes.length - 1][1], kernel, stride, 0)
  const tiles = kernel === stride
  const found = folded(windows(origin, taps, size), name, tiles ? [kind] : [])
  const others = ["meanPeriod", "maxPeriod"].filter((other) => !tiles || other !== kind)
  return { along: found.along, facts: { ...found.facts, ...Object.fromEntries(others.map((other) => [other, found.facts.period])) } }
}

/**
 * Every `stride`-th position, from one on that the data chose.
 * @param {Origin} origin
 * @param {Call} call
 */
function chosen(origin, { block, name, shapes, phase, size }) {
  const [outputs, stride] = [shapes[shapes.length - 1][1], numberOf(block, "stride")]
  const moved = changed(origin, (lines, axis) =>
    lines.map((line) => {
      const pick = (/** @type {number[]} */ row) => Array.from({ length: outputs }, (_, j) => row[phase[axis] + j * stride])
      return { at: pick(line.at), low: pick(line.low), high: pick(line.high), pad: pick(line.pad) }
    }),
  )
  const energy = summed(after(origin, {}), { channels: true, positions: true }, size, "meanPeriod") // which chooses
  const facts = joined(moved.facts, energy.facts)
  return folded({ along: moved.along, facts: { ...facts, chosen: facts.chosen || name } }, name, ["sharp"])
}

/**
 * Each value depends on all of its channel, and stays where it is.
 * @param {Origin} origin
 * @param {Call} call
 */
function normalized(origin, { size }) {
  const all = summed(origin, { positions: true }, size)
  const wide = changed(all, (lines, axis) => {
    const [n, own] = [origin.along[axis][0].at.length, origin.along[axis]]
    return lines.map((line, k) => {
      const wider = (/** @type {number[]} */ row) => Array.from({ length: n }, (_, i) => row[row.length === n ? i : 0])
      const one = own[own.length > 1 ? k : 0]
      return one.at.length === line.at.length ? line : { at: wider(line.at), low: wider(line.low), high: wider(line.high), pad: wider(line.pad) }
    })
  })
  const { period, sharp, meanPeriod, maxPeriod } = origin.facts
  const facts = { ...all.facts, period, sharp, meanPeriod, maxPeriod }
  const found = merged({ along: origin.along, facts }, { along: wide.along, facts })
  return after({ along: found.along, facts }, { linear: true })
}

/**
 * At the first one's pixels, and computed from what both are.
 * @param {Origin} origin
 * @param {Origin} other
 * @returns {Origin}
 */
function merged(origin, other) {
  const found = changed(origin, (lines, axis) => {
    const others = other.along[axis]
    const count = Math.max(lines.length, others.length)
    return Array.from({ length: count }, (_, k) => {
      const [p, q] = [lines[lines.length > 1 ? k : 0], others[others.length > 1 ? k : 0]]
      return {
        at: p.at.map((at, i) => (Number.isNaN(at) ? q.at[i] : at)),
        low: p.low.map((low, i) => Math.min(low, q.low[i])),
        high: p.high.map((high, i) => Math.max(high, q.high[i])),
        pad: p.pad.map((pad, i) => Math.max(pad, q.pad[i])),
      }
    })
  })
  return { along: found.along, facts: joined(origin.facts, other.facts) }
}

/**
 * A fully connected layer: of a map, each position has weights of its own, unless all are tied.
 * @param {Origin} origin
 * @param {Call} call
 * @returns {Origin}
 */
function connected(origin, { name, size, ties }) {
  const over = { channels: true, positions: true }
  const found = summed(origin, over, size)
  const lost = origin.along.map((lines, axis) => {
    return differ(lines.flatMap(({ at }) => at)) && !differ(found.along[axis].flatMap(({ at }) => at))
  })
  if (!lost.some(Boolean)) return after(found, { linear: true })
  let facts = ties >= TIED ? summed(origin, over, size, "meanPeriod").facts : origin.facts
  facts = { ...facts, weighed: [facts.weighed[0] || lost[0], facts.weighed[1] || lost[1]] }
  if (!facts.head || facts.ties > ties) facts = { ...facts, head: name, ties }
  return after({ along: found.along, facts }, { linear: true })
}

/**
 * Side by side, as more channels.
 * @param {Origin} origin
 * @param {Call} call
 * @returns {Origin}
 */
function beside(origin, { block, name, before, shapes }) {
  const source = numberOf(block, "from")
  const other = before[source]
  const [own, more] = [shapes[shapes.length - 2][0], shapes[source][0]]
  const found = changed(origin, (lines, axis) => {
    const wide = (/** @type {Line[]} */ some, /** @type {number} */ n) => (some.length > 1 ? some : Array.from({ length: n }, () => some[0]))
    return tight([...wide(lines, own), ...wide(other.along[axis], more)])
  })
  return folded({ along: found.along, facts: joined(origin.facts, other.facts) }, name)
}

/**
 * @param {Origin} origin
 * @param {Call} call
 */
function upsampled(origin, { block, name, shapes, size }) {
  const factor = numberOf(block, "factor")
  const taps = Array.from({ length: shapes[shapes.length - 1][1] }, (_, j) => [Math.floor(j / factor)])
  return after(folded(windows(origin, taps, size), name), {})
}

/**
 * Where the values that a block returns come from.
 * @param {Call} call
 * @returns {Origin}
 */
export function originOf(call) {
  const origin = RULES[call.block.kind](call.before[call.before.length - 1], call)
  const mixes = origin.along.some((lines) => differ(lines.flatMap(({ at }) => at)) && lines.some(({ low }) => low.includes(-Infinity)))
  return mixes && !origin.facts.mixing ? { along: origin.along, facts: { ...origin.facts, mixing: call.name } } : origin
}

/**
 * ρ = ‖Π W‖² / ‖W‖², where Π averages the weights of each channel over the places.
 * @param {Float64Array} weight `[outputs, values]`
 * @param {Origin} origin of the values, `[channels, height, width]`
 * @param {readonly number[]} shape
 * @returns {number} 1 = equal at all places; NaN = all weights are 0, or some places have more values than others
 */
export function tiedShare(weight, { along: lines }, [channels, height, width]) {
  /** @type {Map<string, number[]>} */
  const places = new Map()
  for (let c = 0, i = 0; c < channels; c++) {
    const [y, x] = lines.map((some) => some[some.length > 1 ? c : 0].at)
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++, i++) {
        const place = `${y[row]} ${x[column]}`
        const values = places.get(place)
        if (values) values.push(i)
        else places.set(place, [i])
      }
    }
  }
  const each = [...places.values()]
  if (each.some(({ length }) => length !== each[0].length)) return NaN
  const size = channels * height * width
  let [means, squares] = [0, 0]
  for (let from = 0; from < weight.length; from += size) {
    for (let rank = 0; rank < each[0].length; rank++) {
      let sum = 0
      for (const values of each) {
        sum += weight[from + values[rank]]
        squares += weight[from + values[rank]] ** 2
      }
      means += sum * sum
    }
  }
  return means / each.length / squares
}
