// The shift map: what the network says of the image at every shift, and a place to drag the digit from.

import { Filling } from "./filling.js"
import { ARROWS } from "./pad.js"
import { paintCell, paintClass } from "./painting.js"
import { RADIUS, SIDE, territories } from "./shiftmap.js"
import { find, percent, write } from "./view.js"

/** @typedef {import("./shiftmap.js").Answer} Answer */

const CELL = 16 // pixels of a cell, before the style sheet scales it
const REST = 120 // milliseconds without a new image before a map begins

/** Shows answers as they come, and tells where the reader drags. */
export class Joystick {
  /**
   * @param {Element} root
   * @param {(dy: number, dx: number) => void} go
   * @param {() => [number, number]} where the digit is now: dy, dx; a frame may be late to show it
   */
  constructor(root, go, where) {
    this.go = go
    this.where = where
    this.canvas = find(root, ".live-joystick canvas", HTMLCanvasElement)
    this.canvas.width = this.canvas.height = SIDE * CELL
    this.context = this.canvas.getContext("2d")
    this.here = find(root, ".live-here", HTMLElement)
    this.text = find(root, ".live-map-text", HTMLElement)
    this.predicted = new Uint8Array(SIDE * SIDE)
    this.filled = 0
    this.hits = 0
    this.target = 0
    this.right = ""
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.soon = undefined
    this.filling = new Filling((from, row) => this.paint(from, row))
    this.listen()
  }

  listen() {
    const { canvas } = this
    let held = false
    const follow = (/** @type {PointerEvent} */ event) => {
      const box = canvas.getBoundingClientRect()
      const cell = (/** @type {number} */ at) => Math.min(Math.max(Math.floor(at * SIDE), 0), SIDE - 1) - RADIUS
      this.go(cell((event.clientY - box.top) / box.height), cell((event.clientX - box.left) / box.width))
    }
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return
      canvas.setPointerCapture(event.pointerId)
      held = true
      follow(event)
    })
    canvas.addEventListener("pointermove", (event) => held && follow(event))
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (held = false))
    canvas.addEventListener("keydown", (event) => {
      const step = ARROWS[event.key]
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return
      event.preventDefault()
      const [dy, dx] = this.where()
      this.go(dy + step[0], dx + step[1])
    })
  }

  /** Let nothing stand that was said of another image or network. */
  clear() {
    clearTimeout(this.soon)
    this.filling.stop()
    this.filled = this.hits = 0
    this.context?.clearRect(0, 0, this.canvas.width, this.canvas.height)
    this.say("Filling …")
  }

  /**
   * Begin anew, once no other image comes.
   * @param {import("./network.js").Network} network
   * @param {import("./layers.js").Tensor} image
   * @param {import("./shifting.js").Mode} mode
   * @param {number} target the right class
   * @param {string} right what is right: the label, or the class without a shift
   */
  start(network, image, mode, target, right) {
    this.clear()
    this.target = target
    this.right = right
    this.soon = setTimeout(() => this.filling.start(network, image, mode), REST)
  }

  /**
   * @param {number} from
   * @param {readonly Answer[]} row
   */
  paint(from, row) {
    const { context } = this
    if (!context) return
    row.forEach(({ predicted, probability }, i) => {
      const at = from + i
      const right = predicted === this.target
      this.predicted[at] = predicted
      this.hits += right ? 1 : 0
      paintCell(context, CELL, Math.floor(at / SIDE), at % SIDE, right, probability)
    })
    this.filled = from + row.length
    if (this.filled < SIDE * SIDE) return
    for (const place of territories(this.predicted)) paintClass(context, CELL, place)
    this.say(`Right (${this.right}) at ${this.hits} of ${this.filled} shifts (${percent(this.hits / this.filled)}).`)
  }

  /** @param {string} text */
  say(text) {
    write(this.text, `${text} Blue is right, orange wrong; pale is unsure.`)
    this.canvas.setAttribute("aria-label", `Shift map: what the network says at each shift. ${text} Arrow keys move the digit`)
  }

  /**
   * @param {number} dy
   * @param {number} dx
   */
  mark(dy, dx) {
    this.here.style.translate = `${100 * (dx + RADIUS)}% ${100 * (dy + RADIUS)}%`
  }
}
