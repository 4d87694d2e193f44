// A network of the reader's own, from a file that `lab export --model` has written. Nothing is uploaded.

import { KINDS, parse, shapesOf, weightsOf } from "./blocks.js"

export const LARGEST_FILE = 8_000_000 // bytes
const SCHEMA = "equivariance-lab/network/"
const VERSION = 1

/** A file that is no network, in one sentence. */
export class FileError extends Error {}

/**
 * @typedef {object} Own
 * @property {string} name
 * @property {import("./blocks.js").Block[]} blocks
 * @property {Float32Array} weights
 * @property {readonly string[]} layers what each block is called in the reader's network
 */

/**
 * @param {File} file
 * @returns {Promise<Own>}
 */
export async function readFile(file) {
  if (file.size > LARGEST_FILE) {
    throw new FileError(`A file may have ${LARGEST_FILE / 1e6} MB: ${file.name.slice(0, 60)} has ${Math.ceil(file.size / 1e6)}.`)
  }
  return readNetwork(await file.text(), file.name.slice(0, 60))
}

/**
 * @param {string} text of a file; may be hostile
 * @param {string} name of the file
 * @returns {Own}
 */
export function readNetwork(text, name) {
  let found
  try {
    found = JSON.parse(text)
  } catch {
    throw new FileError(`${name} is not a network that lab export --model has written, or it is damaged.`)
  }
  const { schema, net, weights, layers } = found ?? {}
  if (typeof schema !== "string" || !schema.startsWith(SCHEMA)) {
    throw new FileError(`${name} is not a network that lab export --model has written.`)
  }
  if (Number(schema.slice(SCHEMA.length)) > VERSION) {
    throw new FileError(`${name} is of a later version than this page: ${schema.slice(SCHEMA.length, SCHEMA.length + 8)}, where this page knows ${VERSION}.`)
  }
  try {
    const blocks = parse(net)
    const shapes = shapesOf(blocks)
    const count = blocks.reduce((sum, block, at) => {
      const own = weightsOf(block, shapes[at])
      return sum + (own ? [own.weight, own.bias].reduce((n, shape) => n + shape.reduce((a, b) => a * b, 1), 0) : 0)
    }, 0)
    const values = decoded(weights)
    if (values.length !== count || !values.every(Number.isFinite)) throw new Error("weights")
    const names = blocks.map((block, at) => String(layers?.[at] ?? KINDS[block.kind].title).slice(0, 40))
    return { name: String(found.name ?? name).slice(0, 60), blocks, weights: values, layers: names }
  } catch {
    throw new FileError(`${name} is damaged: its blocks and its weights do not fit.`)
  }
}

/**
 * float32 numbers from base64.
 * @param {string} text
 */
function decoded(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0))
  const view = new DataView(bytes.buffer)
  return Float32Array.from({ length: Math.floor(bytes.length / 4) }, (_, i) => view.getFloat32(4 * i, true))
}
