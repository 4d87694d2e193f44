// Runs apart from the page, so that no frame waits for it: the answers at every shift, a row at a time.

import { Network } from "./network.js"
import { SIDE, shiftMap } from "./shiftmap.js"

/** @typedef {import("./shiftmap.js").Answer} Answer */

/**
 * What the page asks for.
 * @typedef {object} Order
 * @property {number} job its number; a new one ends those before
 * @property {import("./network.js").Description | null} description null ends the job, and asks for no other
 * @property {Float32Array} parameters
 * @property {{ mean: number, std: number }} normalisation
 * @property {import("./layers.js").Tensor} image
 * @property {import("./shifting.js").Mode} mode
 */

const TURN = 3 // milliseconds of work, and then
const REST = 12 // of none: while the digit is dragged, the page needs the machine more

let current = 0

self.onmessage = async (/** @type {MessageEvent<Order>} */ { data }) => {
  const { job, description, parameters, normalisation, image, mode } = data
  current = job
  if (!description) return
  let from = 0
  /** @type {Answer[]} */
  let row = []
  let end = performance.now() + TURN
  for (const answer of shiftMap(new Network(description, parameters, normalisation), image, mode)) {
    if (answer) row.push(answer)
    if (row.length === SIDE) {
      self.postMessage({ job, from, row })
      from += SIDE
      row = []
    }
    if (performance.now() < end) continue
    await new Promise((resolve) => setTimeout(resolve, REST)) // an order may have come meanwhile
    if (job !== current) return
    end = performance.now() + TURN
  }
}
