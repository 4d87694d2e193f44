// Whether a challenge is solved: by theory at every shift, and by observation at many.

import { padsOf } from "./blocks.js"
import { expect } from "./theory.js"

/** @typedef {import("./presets.js").Goal} Goal */
/** @typedef {import("./verdicts.js").Probe} Probe */
/** @typedef {{ solved: boolean, says: string, seen: number, of: number }} Judgement */

const BLANK = "Theory is content. But with these weights the output is the same for every image: take more channels, or another seed."
const SAMPLES = 48 // shifts at which the network runs

/**
 * The shifts that a challenge is about.
 * @param {Goal} goal
 * @returns {[number, number][]}
 */
export function shiftsOf(goal) {
  const [low, high] = goal === "interior" ? [-12, 12] : [-13, 14]
  const all = /** @type {[number, number][]} */ ([])
  for (let dy = low; dy <= high; dy++) for (let dx = low; dx <= high; dx++) all.push([dy, dx])
  return all.filter(([dy, dx]) => {
    if (goal === "invariant") return dy !== 0 || dx !== 0
    return goal === "odd" ? dy % 2 !== 0 || dx % 2 !== 0 : Math.max(Math.abs(dy), Math.abs(dx)) >= 8
  })
}

/**
 * What theory has against a network; nothing if it is as it should be.
 * @param {Goal} goal
 * @param {Probe} probe that has taken an image
 */
export function objection(goal, probe) {
  const { blocks } = probe.chain
  const last = probe.geometry[blocks.length - 1]
  if (goal === "interior") return interiorObjection(probe)
  if (goal === "invariant" && (last.grid || last.flat)) return "The output still has positions."
  if (goal === "odd" && !blocks.some(({ stride = 1 }) => Number(stride) > 1)) return "There is no stride yet."
  const failing = shiftsOf(goal).map(([dy, dx]) => ({ dy, dx, theory: expect(last, dy, dx, true) }))
  const first = failing.find(({ theory }) => theory.expectation !== "exact")
  return first ? `Theory, at the shift ${first.dy}, ${first.dx}: ${first.theory.why}.` : ""
}

/** @param {Probe} probe */
function interiorObjection({ chain, geometry }) {
  const { blocks } = chain
  if (!blocks.some((block) => block.padding === "zeros" && padsOf(block)[1])) return "It has to pad with zeros."
  if (geometry.some(({ facts }) => facts.period[0] > 1)) return "It has to do without a stride."
  const maps = geometry.filter(({ grid }) => grid)
  const broken = maps.filter((one) => expect(one, 0, 9, false).expectation === "broken")
  return broken.length ? "" : "Theory: every map is exact away from the border."
}

/**
 * Judge a network, one shift after another, so that a page can go on living meanwhile.
 * @param {Goal} goal
 * @param {Probe} probe that has taken an image, and is used for nothing else
 * @returns {Generator<Judgement, Judgement>}
 */
export function* judge(goal, probe) {
  const against = objection(goal, probe)
  const shifts = shiftsOf(goal)
  const of = SAMPLES
  if (against) return { solved: false, says: against, seen: 0, of }
  let seen = 0
  for (let i = 0; i < of; i++) {
    const [dy, dx] = shifts[Math.floor(((i + 0.5) * shifts.length) / of)]
    const found = outcome(goal, probe, dy, dx)
    seen += found === "so" ? 1 : 0
    if (found === "blank") return { solved: false, says: BLANK, seen, of }
    if (found === "not so" && goal !== "interior") {
      return { solved: false, says: `Theory is content, but at the shift ${dy}, ${dx} it is not exact on this digit.`, seen, of }
    }
    yield { solved: false, says: "Looking …", seen, of }
  }
  const solved = goal === "interior" ? 2 * seen > of : seen === of
  return { solved, says: solved ? "" : `Only at ${seen} of ${of} shifts is it broken on this digit.`, seen, of }
}

/**
 * What is seen at one shift.
 * @param {Goal} goal
 * @param {Probe} probe
 * @param {number} dy
 * @param {number} dx
 * @returns {"so" | "not so" | "blank"}
 */
function outcome(goal, probe, dy, dx) {
  const found = probe.measure(dy, dx, goal !== "interior")
  const { observed } = found[found.length - 1]
  if (goal !== "interior") return observed === "exact" ? "so" : observed === "degenerate" ? "blank" : "not so"
  const broken = found.some((one) => one.geometry.grid && one.theory.expectation === "broken" && one.observed === "not exact")
  return broken ? "so" : "not so"
}
