// Changes of a row of blocks. Each returns a new row; whether it can be, `shapesOf` says.

import { KINDS, numberOf, shapesOf, usual } from "./blocks.js"

/** @typedef {import("./blocks.js").Block} Block */
/** @typedef {import("./blocks.js").Kind} Kind */

/**
 * Where skips come from, after a change of the places before them.
 * @param {readonly Block[]} blocks
 * @param {(from: number) => number} place
 * @returns {Block[]}
 */
function rewired(blocks, place) {
  return blocks.map((block) => ("from" in block ? { ...block, from: place(numberOf(block, "from")) } : block))
}

/**
 * With one more block, with the first parameters that fit.
 * @param {readonly Block[]} blocks
 * @param {number} at its place, from 0
 * @param {Kind} kind
 * @returns {Block[]}
 */
export function inserted(blocks, at, kind) {
  const behind = rewired(blocks.slice(at), (from) => (from > at ? from + 1 : from))
  const rows = candidates(blocks, at, kind).map((block) => [...blocks.slice(0, at), block, ...behind])
  return rows.find(can) ?? rows[0]
}

/** @param {readonly Block[]} blocks */
function can(blocks) {
  try {
    return shapesOf(blocks).length > 0
  } catch {
    return false
  }
}

/**
 * @param {readonly Block[]} blocks
 * @param {number} at
 * @param {Kind} kind
 * @returns {Block[]}
 */
function candidates(blocks, at, kind) {
  const block = usual(kind)
  const names = KINDS[kind].parameters.map(({ name }) => name)
  if (names.includes("from")) return Array.from({ length: at }, (_, i) => ({ ...block, from: at - 1 - i }))
  const known = blocks.find(({ padding }) => padding)?.padding
  const like = names.includes("padding") && known && (kind === "conv" || known !== "none") ? [{ ...block, padding: known }] : []
  const strides = names.includes("stride") && kind !== "conv" ? [2, 3].map((stride) => ({ ...block, stride })) : []
  return [...like, block, ...strides]
}

/**
 * @param {readonly Block[]} blocks
 * @param {number} at
 * @returns {Block[]}
 */
export function removed(blocks, at) {
  const behind = rewired(blocks.slice(at + 1), (from) => (from > at ? from - 1 : from))
  return [...blocks.slice(0, at), ...behind]
}

/**
 * With two blocks exchanged; a skip still comes from the place that it came from.
 * @param {readonly Block[]} blocks
 * @param {number} at
 * @param {number} to the place beside it
 * @returns {Block[]}
 */
export function moved(blocks, at, to) {
  const found = [...blocks]
  ;[found[at], found[to]] = [found[to], found[at]]
  return found
}

/**
 * @param {readonly Block[]} blocks
 * @param {number} at
 * @param {string} name of a parameter
 * @param {number | string} value
 * @returns {Block[]}
 */
export function withValue(blocks, at, name, value) {
  return blocks.map((block, i) => (i === at ? /** @type {Block} */ ({ ...block, [name]: value }) : block))
}
