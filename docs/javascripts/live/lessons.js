// What the small labs in the chapters show: one view each, and the words for what is seen.

import { canvasAround } from "./dense.js"
import { SIZE } from "./ink.js"
import { conv2d, zeros } from "./layers.js"
import { isExact } from "./measuring.js"
import { equivarianceError } from "./metrics.js"
import { Painter } from "./painting.js"
import { SortPanel } from "./panels.js"
import { argmax } from "./shiftmap.js"
import { shift } from "./shifting.js"
import { initialState } from "./state.js"
import { Strip } from "./strip.js"
import { SORTED, errorInWords, find } from "./view.js"

/** @typedef {import("./layers.js").Tensor} Tensor */
/** @typedef {import("./shifting.js").Mode} Mode */

/**
 * What a view is given, a frame at a time.
 * @typedef {object} Given
 * @property {Tensor} image
 * @property {import("./measuring.js").Probe | null} probe of the network that the lesson names, if it names one
 * @property {number} dy
 * @property {number} dx
 * @property {string} choice
 */

/** @typedef {{ moved: Float32Array, words: string }} Seen T x, and what to say */

/** Pictures with a caption each, in a row. */
class Tiles {
  /**
   * @param {HTMLElement} root
   * @param {readonly (readonly [string, number])[]} tiles caption and side
   */
  constructor(root, tiles) {
    root.innerHTML = tiles
      .map(([caption]) => `<div class="mini-tile"><b>${caption}</b><div class="square-map"><canvas role="img" aria-label="${caption}"></canvas><i class="square-interior" hidden></i></div></div>`)
      .join("")
    const canvases = [...root.querySelectorAll("canvas")]
    this.painters = tiles.map(([, side], i) => new Painter(canvases[i], side, side))
    this.outlines = /** @type {HTMLElement[]} */ ([...root.querySelectorAll(".square-interior")])
  }

  /**
   * @param {number} which
   * @param {readonly number[]} edges of an outline, as shares of the side: top, right, bottom, left
   */
  outline(which, edges) {
    this.outlines[which].hidden = false
    this.outlines[which].style.inset = edges.map((share) => `${100 * share}%`).join(" ")
  }
}

/** Moved there and back: what is lost at the edge. */
class Undo {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.tiles = new Tiles(root, [["moved back", SIZE], ["difference to x", SIZE]])
    this.moved = zeros([1, SIZE, SIZE])
    this.back = zeros([1, SIZE, SIZE])
  }

  /** @param {Given} given @returns {Seen} */
  show({ image, dy, dx, choice }) {
    const mode = /** @type {Mode} */ (choice)
    shift(image, dy, dx, mode, 0, this.moved)
    shift(this.moved, -dy, -dx, mode, 0, this.back)
    const difference = this.back.data.map((value, i) => value - image.data[i])
    this.tiles.painters[0].paint(this.back.data, "image", 0, 1)
    this.tiles.painters[1].paint(difference, "difference", -1, 1)
    const lost = difference.filter((value) => value !== 0).length
    const words = lost ? `Moved back, ${lost} pixels of the digit are missing: the translation cannot be undone.` : "Moved back, all is as before."
    return { moved: this.moved.data, words }
  }
}

/** Error ÷ control of every layer of the network with pooling. */
class Zigzag {
  /** @param {HTMLElement} root */
  constructor(root) {
    root.innerHTML = `<div class="live-strip" role="group" aria-label="The layers, in order"></div>`
    this.strip = new Strip(find(root, ".live-strip", HTMLElement))
    this.taken = false
  }

  /** @param {Given} given @returns {Seen} */
  show({ probe, image, dy, dx }) {
    if (!probe) return { moved: image.data, words: "" }
    const maps = probe.network.layers.filter(({ stride }) => stride !== null)
    if (!this.taken) this.strip.take(maps)
    this.taken = true
    const findings = probe.measure(dy, dx, "background")
    this.strip.show(findings, "", dy, dx)
    const exact = findings.filter(({ layer, error }) => layer.stride !== null && isExact(error)).length
    return { moved: probe.moved.data, words: `${exact} of ${maps.length} layers commute.` }
  }
}

/** The sort test of the convolution, and two ways to cheat it. */
class Sorted {
  /** @param {HTMLElement} root */
  constructor(root) {
    root.innerHTML = SORTED
    this.panel = new SortPanel(root)
  }

  /** @param {Given} given @returns {Seen} */
  show({ probe, image, dy, dx, choice }) {
    if (!probe) return { moved: image.data, words: "" }
    const findings = probe.measure(dy, dx, "background")
    const trap = /** @type {import("./state.js").Trap} */ (choice)
    this.panel.show(findings[0], probe, { ...initialState(), dy, dx, sort: "conv1", trap })
    return { moved: probe.moved.data, words: "" }
  }
}

const DEPTH = 4 // layers of the padded network
const GREY = 0.5 // less in every pixel: the background of a normalised image is not 0, as padding is

/** @param {Tensor} image @returns {Tensor} */
function darker({ data, shape }) {
  return { data: data.map((value) => value - GREY), shape }
}

/** Convolutions with padding, one behind the other: how far the border has come in. */
class Border {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.tiles = new Tiles(root, Array.from({ length: DEPTH }, (_, i) => [`behind layer ${i + 1}`, SIZE]))
    const draw = [0.5, 0.25, -0.25, 0.25, 1, 0.25, -0.25, 0.25, -0.5]
    this.weight = { data: Float32Array.from(draw), shape: [1, 1, 3, 3] }
    this.bias = { data: Float32Array.of(0.5), shape: [1] }
    this.moved = zeros([1, SIZE, SIZE])
    this.expected = zeros([1, SIZE, SIZE])
  }

  /** @param {Given} given @returns {Seen} */
  show({ image, dy, dx, choice }) {
    const padding = /** @type {Mode} */ (choice)
    shift(image, dy, dx, "wrap", 0, this.moved)
    let [first, second] = [image, this.moved].map(darker)
    let broken = 0
    for (let depth = 0; depth < DEPTH; depth++) {
      ;[first, second] = [first, second].map((x) => conv2d(canvasAround(x, 1, padding), this.weight, this.bias, zeros(x.shape)))
      shift(first, dy, dx, "wrap", 0, this.expected)
      const difference = second.data.map((value, i) => value - this.expected.data[i])
      const top = Math.max(...second.data.map(Math.abs)) / 4
      broken = difference.filter((value) => Math.abs(value) > 1e-6 * top).length
      this.tiles.painters[depth].paint(difference, "difference", -top, top)
    }
    const share = Math.round((100 * broken) / (SIZE * SIZE))
    const words = broken ? `Behind layer ${DEPTH}, ${share} % of the map is broken.` : "Every map moved along, up to its border."
    return { moved: this.moved.data, words }
  }
}

/** Every second pixel, as a layer of stride 2 has it: does half a position of move give what one pixel gave? */
class Half {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.tiles = new Tiles(root, [["f(T x)", SIZE / 2], ["f(x), half as far", SIZE / 2], ["difference", SIZE / 2]])
    this.moved = zeros([1, SIZE, SIZE])
  }

  /** @param {Given} given @returns {Seen} */
  show({ image, dx, choice }) {
    shift(image, 0, dx, "wrap", 0, this.moved)
    const [first, second] = [image, this.moved].map((x) => everySecond(choice === "smooth" ? lowPass(x) : x))
    const expected = { data: movedBy(first.data, SIZE / 2, dx / 2), shape: first.shape }
    const difference = second.data.map((value, i) => value - expected.data[i])
    this.tiles.painters[0].paint(second.data, "image", 0, 1)
    this.tiles.painters[1].paint(expected.data, "image", 0, 1)
    this.tiles.painters[2].paint(difference, "difference", -1, 1)
    const error = equivarianceError(second, expected)
    const seen = error > 1e-5 ? "What is left is aliasing." : "Up to rounding, nothing is left."
    return { moved: this.moved.data, words: `Error against the move by ${dx / 2} positions: ${errorInWords(error)}. ${seen}` }
  }
}

/** @param {Tensor} x */
function everySecond({ data }) {
  const half = SIZE / 2
  const out = zeros([1, half, half])
  for (let i = 0; i < out.data.length; i++) out.data[i] = data[2 * Math.floor(i / half) * SIZE + 2 * (i % half)]
  return out
}

/**
 * The image without all frequencies across that every second pixel cannot hold.
 * @param {Tensor} x
 * @returns {Tensor}
 */
function lowPass({ data, shape }) {
  return { data: spectral(data, SIZE, (k) => (Math.abs(k) < SIZE / 4 ? [1, 0] : [0, 0])), shape }
}

/**
 * Rows moved to the right by any fraction of a position, around the circle: by sinc interpolation.
 * @param {Float32Array} data
 * @param {number} side
 * @param {number} by positions
 */
function movedBy(data, side, by) {
  const angle = (/** @type {number} */ k) => (-2 * Math.PI * k * by) / side
  return spectral(data, side, (k) => (2 * k === -side ? [Math.cos(angle(k)), 0] : [Math.cos(angle(k)), Math.sin(angle(k))]))
}

/**
 * Each row, its frequencies multiplied by a complex factor each.
 * @param {Float32Array} data
 * @param {number} side
 * @param {(k: number) => number[]} factor real and imaginary part, for k from -side / 2 to side / 2 - 1
 */
function spectral(data, side, factor) {
  // the response to one pixel, then one sum for each position: rows are short
  const response = Array.from({ length: side }, (_, q) => {
    let sum = 0
    for (let k = -side / 2; k < side / 2; k++) {
      const [a, b] = factor(k)
      const angle = (2 * Math.PI * k * q) / side
      sum += a * Math.cos(angle) - b * Math.sin(angle)
    }
    return sum / side
  })
  return data.map((_, at) => {
    const row = Math.floor(at / side) * side
    let sum = 0
    for (let q = 0; q < side; q++) sum += data[row + q] * response[(at - row - q + side) % side]
    return sum
  })
}

/** The digit lies still on a canvas, and the window moves the other way. */
class Window {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.tiles = new Tiles(root, [["canvas and window", 2 * SIZE]])
  }

  /** @param {Given} given @returns {Seen} */
  show({ probe, image, dy, dx }) {
    if (!probe) return { moved: image.data, words: "" }
    const radius = SIZE / 2
    this.tiles.painters[0].paint(canvasAround(image, radius, "background").data, "image", 0, 1)
    const [top, left] = [radius - dy, radius - dx].map((at) => at / (2 * SIZE))
    this.tiles.outline(0, [top, 0.5 - left, 0.5 - top, left])
    probe.measure(dy, dx, "background")
    const says = argmax(probe.second[probe.network.head].data)
    return { moved: probe.moved.data, words: `The window lies the other way, and the network says ${says}.` }
  }
}

/**
 * @typedef {object} Lesson
 * @property {new (root: HTMLElement) => { show: (given: Given) => Seen }} View
 * @property {"given" | "pooled" | null} network
 * @property {readonly [number, number]} opening the shift at first: dy, dx
 * @property {boolean} [across] whether the digit moves along its rows alone
 * @property {string} legend of the choice
 * @property {readonly (readonly [string, string])[]} choices value and label; none where there is nothing to choose
 */

const EDGES = /** @type {const} */ ([["background", "background"], ["wrap", "wraps around"]])

/** @type {Record<"undo" | "sort" | "zigzag" | "border" | "half" | "window", Lesson>} */
export const LESSONS = {
  undo: { View: Undo, network: null, opening: [2, 9], legend: "At the edge", choices: EDGES },
  sort: {
    ...{ View: Sorted, network: "given", opening: [0, 3], legend: "The map" },
    choices: [["none", "as it is"], ["flip", "flipped, both ways"], ["scramble", "scrambled"]],
  },
  zigzag: { View: Zigzag, network: "pooled", opening: [0, 1], across: true, legend: "", choices: [] },
  border: {
    ...{ View: Border, network: null, opening: [0, 3], legend: "Padding" },
    choices: [["background", "zeros"], ["wrap", "circular"]],
  },
  half: {
    ...{ View: Half, network: null, opening: [0, 1], across: true, legend: "Before every second pixel" },
    choices: [["plain", "nothing"], ["smooth", "a low pass"]],
  },
  window: { View: Window, network: "given", opening: [-2, 4], legend: "", choices: [] },
}
