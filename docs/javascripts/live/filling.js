// A shift map that fills while the reader goes on: in a worker, or a little in each turn where the page can have none.

import { shiftMap } from "./shiftmap.js"

/** @typedef {import("./layers.js").Tensor} Tensor */
/** @typedef {import("./network.js").Network} Network */
/** @typedef {import("./shiftmap.js").Answer} Answer */
/** @typedef {import("./shifting.js").Mode} Mode */

const PATIENCE = 6 // milliseconds of a turn, where the page itself has to do it

/** Fills one map at a time; a new one ends the one before. */
export class Filling {
  /** @param {(from: number, row: readonly Answer[]) => void} tell is told some answers, and the place of the first */
  constructor(tell) {
    this.tell = tell
    this.job = 0
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.turn = undefined
    this.worker = startWorker()
    if (!this.worker) return
    this.worker.onmessage = ({ data }) => {
      if (data.job === this.job) this.tell(data.from, data.row)
    }
    this.worker.onerror = () => this.goOn()
  }

  /** The worker cannot run here: then the page does what was asked last. */
  goOn() {
    this.worker?.terminate()
    this.worker = null
    if (this.asked) this.start(...this.asked)
  }

  /**
   * @param {Network} network
   * @param {Tensor} image kept as it is now
   * @param {Mode} mode
   */
  start(network, image, mode) {
    this.stop()
    const kept = { data: image.data.slice(), shape: image.shape }
    this.asked = /** @type {[Network, Tensor, Mode]} */ ([network, kept, mode])
    if (!this.worker) {
      this.work(shiftMap(network, kept, mode), 0)
      return
    }
    const { description, values, normalisation } = network
    this.worker.postMessage({ job: this.job, description, parameters: values, normalisation, image: kept, mode })
  }

  stop() {
    this.job++
    this.asked = undefined
    clearTimeout(this.turn)
    this.worker?.postMessage({ job: this.job, description: null })
  }

  /**
   * @param {Generator<Answer | null, void>} answers
   * @param {number} from
   */
  work(answers, from) {
    this.turn = setTimeout(() => {
      const end = performance.now() + PATIENCE
      /** @type {Answer[]} */
      const row = []
      let done = false
      while (!done && performance.now() < end) {
        const next = answers.next()
        if (next.value) row.push(next.value)
        done = next.done === true
      }
      this.tell(from, row)
      if (!done) this.work(answers, from + row.length)
    })
  }
}

/** A worker from the text that the build has put before the page's script; null where there is or may be none. */
function startWorker() {
  const { liveLabWorker } = /** @type {{ liveLabWorker?: string }} */ (globalThis)
  if (!liveLabWorker) return null
  const address = URL.createObjectURL(new Blob([liveLabWorker], { type: "text/javascript" }))
  try {
    return new Worker(address)
  } catch {
    return null // where the page's policy forbids it
  } finally {
    setTimeout(() => URL.revokeObjectURL(address), 10_000)
  }
}
