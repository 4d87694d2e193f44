// Three maps side by side: f(T x), T f(x), and their difference.

import { Painter } from "./painting.js"

/** @typedef {import("./layers.js").Tensor} Tensor */
/** @typedef {import("./shifting.js").Region} Region */

/** Three maps on one scale, with the interior outlined. */
export class Maps {
  /**
   * @param {Element} root holds the markup of three maps
   * @param {readonly number[]} shape of the layer
   */
  constructor(root, shape) {
    const [, rows, columns] = shape
    this.size = rows * columns
    this.shape = [rows, columns]
    this.difference = new Float32Array(this.size)
    this.painters = [...root.querySelectorAll("canvas")].map((canvas) => new Painter(canvas, rows, columns))
    this.outlines = /** @type {HTMLElement[]} */ ([...root.querySelectorAll(".live-interior")])
  }

  /**
   * @param {Tensor} moved f(T x)
   * @param {Tensor} expected T f(x)
   * @param {number} channel the channel shown
   * @param {Region | null} region outlined, if any
   */
  show(moved, expected, channel, region) {
    const from = channel * this.size
    let [low, high] = [Infinity, -Infinity]
    for (let i = 0; i < this.size; i++) {
      const [a, b] = [moved.data[from + i], expected.data[from + i]]
      this.difference[i] = a - b
      low = Math.min(low, a, b)
      high = Math.max(high, a, b)
    }
    const top = Math.max(Math.abs(low), Math.abs(high))
    this.painters[0].paint(moved.data, "feature", low, high, from)
    this.painters[1].paint(expected.data, "feature", low, high, from)
    this.painters[2].paint(this.difference, "difference", -top, top)
    for (const outline of this.outlines) this.outline(outline, region)
  }

  /**
   * @param {HTMLElement} outline
   * @param {Region | null} region
   */
  outline(outline, region) {
    const empty = !region || region.top >= region.bottom || region.left >= region.right
    outline.hidden = empty
    if (!region || empty) return
    const [rows, columns] = this.shape
    outline.style.inset = `${(100 * region.top) / rows}% ${100 - (100 * region.right) / columns}% ${100 - (100 * region.bottom) / rows}% ${(100 * region.left) / columns}%`
  }
}
