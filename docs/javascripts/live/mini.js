// A small lab inside a chapter: the digit to drag, and one thing to see. `preset` names which; see lessons.js.

import { SIZE } from "./ink.js"
import { zeros } from "./layers.js"
import { LESSONS } from "./lessons.js"
import { Pad } from "./pad.js"
import { Painter } from "./painting.js"
import { RADIUS } from "./shiftmap.js"
import { find, miniMarkup, shiftInWords, write } from "./view.js"

/** @typedef {import("./measuring.js").Probe} Probe */
/** @typedef {import("./sources.js").Source} Source */

const DIGIT = 28 // a seven

/** One digit, and one lesson. */
export class Mini {
  /**
   * @param {HTMLElement} root whose content is replaced
   * @param {Source} source
   */
  constructor(root, source) {
    const preset = root.getAttribute("preset") ?? ""
    const lesson = Object.hasOwn(LESSONS, preset) ? LESSONS[/** @type {"undo"} */ (preset)] : LESSONS.undo
    this.root = root
    this.source = source
    this.lesson = lesson
    this.state = { dy: lesson.opening[0], dx: lesson.opening[1], choice: lesson.choices[0]?.[0] ?? "" }
    this.digit = DIGIT
    this.image = zeros([1, SIZE, SIZE])
    this.pending = 0
    /** @type {Probe | null} */
    this.probe = null
    root.innerHTML = miniMarkup(lesson)
    this.view = new lesson.View(find(root, ".mini-view", HTMLElement))
    this.pad = new Pad(root, {
      move: (dy, dx) => this.moveTo(dy, dx),
      shift: () => [this.state.dy, this.state.dx],
      draw: () => {},
      rest: () => {},
    })
    this.painter = new Painter(this.pad.canvas, SIZE, SIZE)
    this.said = find(root, ".mini-said", HTMLElement)
    root.addEventListener("input", ({ target }) => {
      if (target instanceof HTMLInputElement && target.name.endsWith("mini")) this.change({ choice: target.value })
    })
    root.addEventListener("click", ({ target }) => {
      if (target instanceof HTMLElement && target.dataset.do === "next") this.take((this.digit + 5) % source.digits.length)
    })
  }

  /** Load the network that the lesson needs, if it needs one. */
  async start() {
    if (this.lesson.network) this.probe = await this.source.probe(this.lesson.network, true)
    this.take(this.digit)
    this.frame()
  }

  /** @param {number} digit */
  take(digit) {
    this.digit = digit
    this.image.data.set(this.source.digits[digit])
    this.probe?.take(this.image, { data: this.source.unrelated(digit), shape: this.image.shape })
    this.change({})
  }

  /**
   * @param {number} dy
   * @param {number} dx
   */
  moveTo(dy, dx) {
    const [y, x] = [dy, dx].map((t) => Math.min(Math.max(t, -RADIUS), RADIUS) + 0)
    this.change({ dy: this.lesson.across ? 0 : y, dx: x })
  }

  /** @param {Partial<{ dy: number, dx: number, choice: string }>} choice */
  change(choice) {
    Object.assign(this.state, choice)
    this.pending ||= requestAnimationFrame(() => {
      this.pending = 0
      this.frame()
    })
  }

  /** Measure, paint, and say what is to be seen. */
  frame() {
    const { dy, dx, choice } = this.state
    const { moved, words } = this.view.show({ image: this.image, probe: this.probe, dy, dx, choice })
    this.painter.paint(moved, "image", 0, 1)
    this.pad.show(dy, dx)
    write(this.said, `Moved ${shiftInWords(dy, dx)}. ${words}`)
  }
}
