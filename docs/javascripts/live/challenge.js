// Predict first: questions drawn from their number, so that an address names one.

import { theory } from "./measuring.js"

/** @typedef {import("./network.js").Layer} Layer */
/** @typedef {import("./state.js").State} State */

const STEPS = [1, 2, 3, 4, 6, 8] // pixels: some that 2 and 4 divide, some that they do not

/**
 * The setting of a question.
 * @param {number} number from 1
 * @param {number} digits how many there are to choose from
 * @returns {Pick<State, "network" | "trained" | "mode" | "digit" | "dy" | "dx" | "ink">}
 */
export function question(number, digits) {
  const draw = generator(number)
  const sign = () => (draw() < 0.5 ? -1 : 1)
  const step = () => STEPS[Math.floor(draw() * STEPS.length)] * sign()
  const axes = Math.floor(draw() * 3) // down, right, or both
  return {
    network: number % 3 === 1 ? "given" : "pooled",
    trained: draw() < 0.7,
    mode: draw() < 0.7 ? "background" : "wrap",
    digit: Math.floor(draw() * digits),
    dy: axes === 1 ? 0 : step(),
    dx: axes === 0 ? 0 : step(),
    ink: null,
  }
}

/**
 * Numbers in [0, 1) that depend on a seed alone: a linear congruential generator modulo 2³².
 * @param {number} seed
 * @returns {() => number}
 */
function generator(seed) {
  let state = Math.imul(seed, 0x9e3779b1) >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state >>> 8) / 2 ** 24
  }
}

/**
 * The layers that a question asks for: those with weights or a stride of their own.
 * @param {readonly Layer[]} layers
 * @returns {Layer[]}
 */
export function askedLayers(layers) {
  return layers.filter(({ kind }) => kind !== "relu")
}

/**
 * @param {readonly Layer[]} layers of the network
 * @param {ReadonlySet<string>} chosen names of those that the reader expects to be exact
 * @param {number} dy
 * @param {number} dx
 * @returns {{ layer: Layer, expected: boolean, exact: boolean, why: string, right: boolean }[]} for each asked layer
 */
export function grade(layers, chosen, dy, dx) {
  return askedLayers(layers).map((layer) => {
    const { exact, why } = theory(layer, dy, dx)
    const expected = chosen.has(layer.name)
    return { layer, expected, exact, why, right: expected === exact }
  })
}
