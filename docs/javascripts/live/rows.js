// One layer's row: f(T x), T f(x), their difference, and what is said of them.

import { Painter } from "./painting.js"
import { errorInWords, find, layerMarkup, verdict } from "./view.js"

/** @typedef {import("./layers.js").Tensor} Tensor */
/** @typedef {import("./measuring.js").Finding} Finding */
/** @typedef {import("./network.js").Layer} Layer */
/** @typedef {import("./shifting.js").Region} Region */

/** Three maps on one scale, with the interior outlined. */
export class Maps {
  /**
   * @param {Element} root holds the markup of three maps
   * @param {readonly number[]} shape of the layer
   */
  constructor(root, shape) {
    const [rows, columns] = shape.length === 3 ? shape.slice(1) : grid(shape[0])
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

/**
 * The most square grid that holds a vector without a gap: rows, columns.
 * @param {number} n
 */
function grid(n) {
  let rows = Math.floor(Math.sqrt(n))
  while (n % rows) rows--
  return [rows, n / rows]
}

/** A layer's row. */
export class LayerRow {
  /**
   * @param {Layer} layer
   * @param {(channel: number) => void} choose is told which channel the reader wants to see
   */
  constructor(layer, choose) {
    const template = document.createElement("template")
    template.innerHTML = layerMarkup(layer)
    this.element = find(template.content, ".live-layer", HTMLElement)
    this.layer = layer
    this.maps = new Maps(find(this.element, ".live-maps", HTMLElement), layer.shape)
    this.badge = find(this.element, ".live-verdict", HTMLElement)
    const values = this.element.querySelectorAll("dd")
    this.values = Object.fromEntries([...values].map((value) => [value.dataset.of, value]))
    this.range = this.element.querySelector("input")
    this.range?.addEventListener("input", () => choose(Number(this.range?.value)))
  }

  /**
   * @param {Finding} finding
   * @param {Tensor} moved f(T x)
   * @param {number} channel
   * @param {number} dy
   * @param {number} dx
   */
  show(finding, moved, channel, dy, dx) {
    const { expected, region, error, full, control } = finding
    this.maps.show(moved, expected, channel, this.layer.stride !== null && (dy || dx) ? region : null)
    const { exact, seen, told, why } = verdict(finding, dy, dx)
    this.badge.dataset.exact = String(exact)
    write(find(this.badge, "b", HTMLElement), seen)
    const near = finding.onStride || this.layer.stride === null ? "" : "; T f(x) is moved to the nearest position"
    write(find(this.badge, "span", HTMLElement), told ? `Theory: ${told}, since ${why}${near}.` : "")
    for (const [key, value] of Object.entries({ error, full, control })) {
      if (this.values[key]) write(this.values[key], errorInWords(value))
    }
    if (this.range) {
      this.range.value = String(channel)
      write(find(this.element, "output", HTMLElement), `${channel + 1} of ${this.layer.shape[0]}`)
    }
  }
}

/**
 * Change a text only if it changes: the browser then has nothing to lay out.
 * @param {HTMLElement} element
 * @param {string} text
 */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text
}
