// The digit under the pointer and under the keys.

import { SIZE, stroke } from "./ink.js"
import { find } from "./view.js"

/** @typedef {[number, number]} Place y, x, in pixels of the image from its upper left corner */

export const ARROWS = /** @type {Record<string, Place>} */ ({
  ...{ ArrowUp: [-1, 0], ArrowDown: [1, 0] },
  ...{ ArrowLeft: [0, -1], ArrowRight: [0, 1] },
})
const LABELS = {
  move: "T x: the digit. Drag it, or move it with the arrow keys",
  draw: "Drawing area: move the cell with the arrow keys, ink with the space bar",
}

/** Tells how T x is dragged or drawn on. */
export class Pad {
  /**
   * @param {Element} root
   * @param {object} tell
   * @param {(dy: number, dx: number) => void} tell.move by how much the digit is to be moved from where it was before
   * @param {() => Place} tell.shift where it is now: dy, dx
   * @param {(draw: (ink: Float32Array) => void) => void} tell.draw what to do to the drawing
   * @param {() => void} tell.rest a stroke has ended
   */
  constructor(root, tell) {
    this.tell = tell
    this.canvas = find(root, ".live-pad canvas", HTMLCanvasElement)
    this.frame = find(root, ".live-frame", HTMLElement)
    this.mark = find(root, ".live-cursor", HTMLElement)
    /** @type {"move" | "draw"} */
    this.tool = "move"
    this.enabled = true
    this.drawing = false
    this.cursor = [SIZE / 2, SIZE / 2]
    this.listen()
  }

  /** @param {"move" | "draw"} tool */
  take(tool) {
    this.tool = tool
    this.mark.hidden = tool === "move"
    this.canvas.setAttribute("aria-label", LABELS[tool])
    this.showCursor()
  }

  /**
   * Where the digit's frame is now; whoever owns the canvas paints T x.
   * @param {number} dy
   * @param {number} dx
   */
  show(dy, dx) {
    this.frame.style.translate = `${(100 * dx) / SIZE}% ${(100 * dy) / SIZE}%`
    this.frame.hidden = !dy && !dx
  }

  showCursor() {
    const [y, x] = this.cursor
    this.mark.style.inset = `${(100 * y) / SIZE}% auto auto ${(100 * x) / SIZE}%`
  }

  listen() {
    /** @type {{ at: Place, shift: Place, box: DOMRect } | null} */
    let held = null
    this.canvas.addEventListener("pointerdown", (event) => {
      if (!this.enabled || event.button !== 0) return
      this.canvas.setPointerCapture(event.pointerId)
      const box = this.canvas.getBoundingClientRect()
      held = { at: this.place(event, box), shift: this.tell.shift(), box }
      this.drawing = this.tool === "draw"
      if (this.drawing) this.draw(held.at, held.at)
    })
    this.canvas.addEventListener("pointermove", (event) => {
      if (!held) return
      const { at, shift, box } = held // the box as it was: what a drag changes on the page must not move the digit
      const now = this.place(event, box)
      if (!this.drawing) this.tell.move(shift[0] + Math.round(now[0] - at[0]), shift[1] + Math.round(now[1] - at[1]))
      else {
        this.draw(at, now)
        held.at = now
      }
    })
    const release = () => {
      held = null
      if (!this.drawing) return
      this.drawing = false
      this.tell.rest()
    }
    this.canvas.addEventListener("pointerup", release)
    this.canvas.addEventListener("pointercancel", release)
    this.canvas.addEventListener("keydown", (event) => this.onKey(event))
  }

  /**
   * @param {PointerEvent} event
   * @param {DOMRect} box of the canvas
   * @returns {Place}
   */
  place(event, box) {
    return [((event.clientY - box.top) / box.height) * SIZE, ((event.clientX - box.left) / box.width) * SIZE]
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    const step = ARROWS[event.key]
    const ink = this.tool === "draw" && event.key === " "
    if (!this.enabled || event.ctrlKey || event.metaKey || event.altKey || !(step || ink)) return
    event.preventDefault()
    if (ink) {
      /** @type {Place} */
      const middle = [this.cursor[0] + 0.5, this.cursor[1] + 0.5]
      this.draw(middle, middle)
      this.tell.rest()
    } else if (this.tool === "draw") {
      this.cursor = this.cursor.map((place, axis) => Math.min(Math.max(place + step[axis], 0), SIZE - 1))
      this.showCursor()
    } else {
      const [dy, dx] = this.tell.shift()
      this.tell.move(dy + step[0], dx + step[1])
    }
  }

  /**
   * A stroke on the digit as it lies, moved or not.
   * @param {Place} from
   * @param {Place} to
   */
  draw(from, to) {
    const [dy, dx] = this.tell.shift()
    this.tell.draw((ink) => stroke(ink, [from[0] - dy, from[1] - dx], [to[0] - dy, to[1] - dx]))
  }
}
