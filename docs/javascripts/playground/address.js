// What the reader has chosen, as the part of the address behind `#`. Whatever is not understood is left out.

import { format } from "./blocks.js"
import { PRESETS } from "./presets.js"

/**
 * @typedef {object} Choice
 * @property {string} net the row of blocks; may be hostile, as it comes from an address
 * @property {number} seed of the weights
 * @property {boolean} trained whether the weights are the trained ones of the lab
 * @property {boolean} wrap
 * @property {number} digit
 * @property {number} dy
 * @property {number} dx
 * @property {number} block which is looked at, from 0
 * @property {number} challenge from 1; 0 is none
 */

export const REACH = 14 // pixels of a shift, either way
const LARGEST_SEED = 9999

/** @returns {Choice} */
export function firstChoice() {
  return { net: PRESETS.given.net, seed: 0, trained: false, wrap: false, digit: 28, dy: -2, dx: 3, block: 0, challenge: 0 }
}

/**
 * @param {string | undefined} text
 * @param {number} low
 * @param {number} high
 * @param {number} otherwise
 */
export function whole(text, low, high, otherwise) {
  if (text === undefined || !/^-?\d{1,4}$/.test(text)) return otherwise
  const number = Number(text)
  return number >= low && number <= high ? number + 0 : otherwise
}

/**
 * @param {string} hash with or without its `#`; may be hostile
 * @param {number} digits how many there are
 * @returns {Choice}
 */
export function parseAddress(hash, digits) {
  const first = firstChoice()
  /** @type {Map<string, string>} */
  const given = new Map()
  for (const part of hash.replace(/^#/, "").slice(0, 2000).split("&")) {
    const [, key, value] = /^(\w+)=([\w.,-]*)$/.exec(part) ?? []
    if (key) given.set(key, value)
  }
  const number = (/** @type {string} */ key, /** @type {number} */ low, /** @type {number} */ high, /** @type {number} */ otherwise) =>
    whole(given.get(key), low, high, otherwise)
  return {
    net: given.get("net") || first.net,
    seed: number("seed", 0, LARGEST_SEED, 0),
    trained: given.get("weights") === "trained",
    wrap: given.get("enter") === "wrap",
    digit: number("digit", 0, digits - 1, Math.min(first.digit, digits - 1)),
    dy: number("dy", -REACH, REACH, first.dy),
    dx: number("dx", -REACH, REACH, first.dx),
    block: number("block", 1, 10, 1) - 1,
    challenge: number("challenge", 1, 3, 0),
  }
}

/**
 * @param {Choice} choice
 * @param {readonly import("./blocks.js").Block[]} blocks
 * @returns {string} for the address, without `#`
 */
export function formatAddress(choice, blocks) {
  const first = firstChoice()
  const net = format(blocks)
  /** @type {[string, string | number | false][]} */
  const parts = [
    ["net", net !== first.net && net],
    ["seed", choice.seed !== first.seed && String(choice.seed)],
    ["weights", choice.trained && "trained"],
    ["enter", choice.wrap && "wrap"],
    ["digit", choice.digit !== first.digit && String(choice.digit)],
    ["dy", choice.dy !== first.dy && String(choice.dy)],
    ["dx", choice.dx !== first.dx && String(choice.dx)],
    ["block", choice.block !== 0 && String(choice.block + 1)],
    ["challenge", choice.challenge !== 0 && String(choice.challenge)],
  ]
  return parts.flatMap(([key, value]) => (value ? [`${key}=${value}`] : [])).join("&")
}
