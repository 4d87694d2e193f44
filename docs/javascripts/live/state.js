// What the reader has chosen, as the part of the address behind `#`. Whatever is not understood is left out.

import { decode, encode } from "./ink.js"
import { RADIUS } from "./shiftmap.js"

/** @typedef {import("./shifting.js").Mode} Mode */
/** @typedef {"none" | "flip" | "scramble"} Trap */

/**
 * @typedef {object} State
 * @property {"given" | "pooled"} network
 * @property {boolean} trained
 * @property {Mode} mode
 * @property {number} digit which of the exported digits, from 0
 * @property {Float32Array | null} ink a drawing, which takes the digit's place
 * @property {number} dy
 * @property {number} dx
 * @property {string | null} layer whose square is shown; null for the first
 * @property {Record<string, number>} channels by layer; 0 where none is named
 * @property {string | null} sort the layer under the sort test; null while that is closed
 * @property {Trap} trap what is done to that layer's output
 * @property {boolean} map whether the reader is led to the shift map
 * @property {boolean} compare whether both networks stand side by side
 * @property {number} question of the challenge, from 1; 0 outside it
 */

/** What an address without a state opens: at this shift, the convolution commutes, and the class changes. */
export const OPENING = { dy: -2, dx: 4 }

/** @returns {State} what an address says that leaves everything out */
export function initialState() {
  return {
    ...{ network: "given", trained: true, mode: "background", digit: 28, ink: null, dy: 0, dx: 0 },
    ...{ layer: null, channels: {}, sort: null, trap: "none", map: false, compare: false, question: 0 },
  }
}

/**
 * A whole number within bounds; null for anything else.
 * @param {string | undefined} text
 * @param {number} low
 * @param {number} high
 */
function whole(text, low, high) {
  if (text === undefined || !/^-?\d{1,4}$/.test(text)) return null
  const number = Number(text)
  return number >= low && number <= high ? number + 0 : null
}

/** @param {string | undefined} text */
function layerName(text) {
  return text !== undefined && /^[a-z]+\d$/.test(text) ? text : null
}

/**
 * @param {string} hash with or without its `#`; may be hostile
 * @param {number} digits how many there are
 * @returns {State} what it says; the initial state in all that it does not say, or not as it should; the opening where
 *     nothing is left
 */
export function parse(hash, digits) {
  const state = initialState()
  /** @type {Map<string, string>} */
  const given = new Map()
  for (const part of hash.replace(/^#/, "").slice(0, 4000).split("&")) {
    const [, key, value] = /^(\w+)=([\w.,-]*)$/.exec(part) ?? []
    if (key) given.set(key, value)
  }
  if (given.get("net") === "pooled") state.network = "pooled"
  if (given.get("weights") === "untrained") state.trained = false
  if (given.get("enter") === "wrap") state.mode = "wrap"
  state.digit = whole(given.get("digit"), 0, digits - 1) ?? Math.min(state.digit, digits - 1)
  state.ink = decode(given.get("ink") ?? "")
  state.dy = whole(given.get("dy"), -RADIUS, RADIUS) ?? 0
  state.dx = whole(given.get("dx"), -RADIUS, RADIUS) ?? 0
  for (const part of (given.get("channels") ?? "").split(",")) {
    const [, layer, channel] = /^([a-z]+\d)\.(\d{1,2})$/.exec(part) ?? []
    if (layer) state.channels[layer] = Number(channel)
  }
  state.layer = layerName(given.get("layer"))
  state.sort = layerName(given.get("sort"))
  const trap = given.get("trap")
  if (state.sort && (trap === "flip" || trap === "scramble")) state.trap = trap
  state.map = given.get("map") === "1"
  state.compare = given.get("compare") === "1"
  state.question = whole(given.get("question"), 1, 9999) ?? 0
  const still = ["dy", "dx"].some((axis) => given.get(axis) === "0")
  return format(state) === STILL && !still ? { ...state, ...OPENING } : state
}

const STILL = "dx=0" // all as at first, and nothing moved
const OPENED = `dy=${OPENING.dy}&dx=${OPENING.dx}`

/**
 * @param {State} state
 * @returns {string} for the address, without `#`; empty for the opening
 */
export function format(state) {
  const first = initialState()
  const channels = Object.entries(state.channels).filter(([, channel]) => channel > 0)
  /** @type {[string, string | number | boolean][]} */
  const parts = [
    ["net", state.network !== first.network && state.network],
    ["weights", !state.trained && "untrained"],
    ["enter", state.mode === "wrap" && "wrap"],
    ["digit", state.digit !== first.digit && String(state.digit)],
    ["ink", state.ink !== null && encode(state.ink)],
    ["dy", state.dy],
    ["dx", state.dx],
    ["layer", state.layer ?? false],
    ["channels", channels.map(([layer, channel]) => `${layer}.${channel}`).join(",")],
    ["sort", state.sort ?? false],
    ["trap", state.sort !== null && state.trap !== "none" && state.trap],
    ["map", state.map && "1"],
    ["compare", state.compare && "1"],
    ["question", state.question],
  ]
  const text = parts.flatMap(([key, value]) => (value ? [`${key}=${value}`] : [])).join("&")
  return text === OPENED ? "" : text || STILL
}
