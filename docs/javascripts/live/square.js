// The commuting square of one layer: x, T x, f(x), and the corner where the two ways round meet, f(T x) over T f(x).
// Beside it, what is left between the two ways, and what would be left if one step were wrong, on one colour scale.
//
// It knows nothing of networks and of addresses: it is given tensors, regions and numbers, and paints them.
//
//   const square = new Square(host, { channel: (c) => … })   // an element of yours, whose content is replaced
//   square.take({ name: "conv1", shape: [1, 27, 27], image: [1, 28, 28] })   // once for each layer: makes room
//   square.show({ x, moved, before, after, expected, region, wrong, wrongRegion, channel: 0, error: 0, control: 0.9, commutes: true })
//
// `take` is cheap enough for every change of architecture, `show` for every frame. The corner T x has what `Pad` in pad.js
// looks for: `new Pad(square.root, …)`, once, makes the digit there one that can be dragged. Without a `Pad`, give
// `{ still: true }` to the constructor, and T x is a picture. Colours and sizes are in live.css, below "The commuting
// square"; `--map` on the host sets the side of a map (at least 200 px on a desktop).

import { SIZE } from "./ink.js"
import { Painter, paintBars } from "./painting.js"
import { errorInWords, find, write } from "./view.js"

/** @typedef {import("./layers.js").Tensor} Tensor */
/** @typedef {import("./shifting.js").Region} Region */

/**
 * The layer of a square.
 * @typedef {object} Subject
 * @property {string} name on the arrows
 * @property {readonly number[]} shape of its output: `[channels, height, width]`, or `[features]` without positions
 * @property {readonly number[]} image shape of x: `[1, height, width]`
 */

/**
 * What a frame shows.
 * @typedef {object} Commuting
 * @property {Tensor} x in 0 to 1
 * @property {Tensor} moved T x
 * @property {Tensor} before f(x)
 * @property {Tensor} after f(T x)
 * @property {Tensor} expected T f(x); f(x) itself without positions
 * @property {Region | null} region the interior, where the two are compared; null for all of the map
 * @property {Tensor} wrong the control: f(x) moved one step wrong; without positions, f of another image
 * @property {Region | null} wrongRegion where that is compared
 * @property {number} channel which is shown; 0 without positions
 * @property {number} error between f(T x) and T f(x), over the region and all channels
 * @property {number} control the same between f(T x) and `wrong`
 * @property {boolean | null} commutes null where nothing can be seen, as before any move
 */

const LABELLED = 16 // values, at most, that have a bar with a number each

/** A square on the page. */
export class Square {
  /**
   * @param {HTMLElement} root whose content is replaced
   * @param {object} [options]
   * @param {(channel: number) => void} [options.channel] is told which channel the reader wants to see
   * @param {boolean} [options.still] whether T x is a picture, and nothing to drag
   */
  constructor(root, { channel = () => {}, still = false } = {}) {
    this.root = root
    root.classList.add("square")
    root.innerHTML = markup(still)
    this.wipe = find(root, "[name=square-wipe]", HTMLInputElement)
    this.both = find(root, ".square-both", HTMLElement)
    this.blinker = find(root, "[data-square=blink]", HTMLButtonElement)
    this.range = find(root, "[name=square-channel]", HTMLInputElement)
    this.channels = find(root, ".square-channel", HTMLElement)
    this.sign = find(root, ".square-sign", HTMLElement)
    this.numbers = ["error", "control"].map((name) => find(root, `[data-square=${name}]`, HTMLElement))
    /** @type {Record<string, HTMLElement>} */
    this.outlines = {}
    for (const name of ["both", "difference", "control"]) {
      this.outlines[name] = find(root, `.square-${name} .square-interior`, HTMLElement)
    }
    this.wipe.addEventListener("input", () => this.wipeTo(Number(this.wipe.value)))
    this.blinker.addEventListener("click", () => this.blink())
    this.range.addEventListener("input", () => channel(Number(this.range.value)))
    this.wipeTo(50)
  }

  /**
   * Make room for a layer.
   * @param {Subject} subject
   */
  take({ name, shape, image }) {
    this.shape = shape
    this.flat = shape.length === 1
    const [height, width] = this.flat ? [1, shape[0]] : shape.slice(1)
    this.size = height * width
    const canvas = (/** @type {string} */ of) => find(this.root, `[data-map=${of}]`, HTMLCanvasElement)
    this.canvases = Object.fromEntries(MAPS.map((of) => [of, canvas(of)]))
    this.images = ["x", "moved"].map((of) => new Painter(canvas(of), image[1], image[2]))
    /** @type {Record<string, Painter>} */
    this.painters = {}
    if (!this.flat) for (const of of MAPS) this.painters[of] = new Painter(this.canvases[of], height, width)
    else for (const of of MAPS) this.canvases[of].width = this.canvases[of].height = 2 * BAR_ROOM
    this.differences = [new Float32Array(this.size), new Float32Array(this.size)]
    this.root.classList.toggle("square-flat", this.flat)
    this.channels.hidden = this.flat || shape[0] === 1
    this.range.max = String(shape[0] - 1)
    this.root.setAttribute("aria-label", `The two ways round ${name}`)
    for (const arrow of this.root.querySelectorAll(".square-f")) write(/** @type {HTMLElement} */ (arrow), name)
    this.caption(name)
  }

  /** @param {string} name */
  caption(name) {
    const flat = this.flat
    const says = { x: "x", moved: "T x", before: "f(x)", after: "f(T x)", expected: flat ? "f(x)" : "T f(x)" }
    const control = flat ? "another image" : "one step wrong"
    for (const [of, text] of Object.entries(says)) {
      for (const label of this.root.querySelectorAll(`[data-says=${of}]`)) write(/** @type {HTMLElement} */ (label), text)
    }
    write(find(this.root, "[data-says=wrong]", HTMLElement), control)
    for (const of of MAPS) {
      const words = { ...says, difference: "what is left between the two ways", control: `the control: ${control}` }
      this.canvases?.[of].setAttribute("aria-label", `${name}: ${words[/** @type {"after"} */ (of)]}`)
    }
  }

  /**
   * Paint a frame.
   * @param {Commuting} given
   */
  show(given) {
    const { x, moved, before, after, expected, wrong, region, wrongRegion, channel } = given
    if (!this.images || !this.differences) throw new Error("take a layer first")
    this.images[0].paint(x.data, "image", 0, 1)
    this.images[1].paint(moved.data, "image", 0, 1)
    const from = channel * (this.size ?? 0)
    const tensors = { before, after, expected }
    const [low, high] = this.bounds([before, after, expected], from)
    for (const [of, tensor] of Object.entries(tensors)) this.paint(of, tensor.data, low, high, from)
    const left = [this.subtract(0, after, expected, region, from), this.subtract(1, after, wrong, wrongRegion, from)]
    const top = Math.max(...left) || 1 // one scale: what is blank is nothing beside the control
    this.paint("difference", this.differences[0], -top, top, 0)
    this.paint("control", this.differences[1], -top, top, 0)
    this.outline("both", region)
    this.outline("difference", region)
    this.outline("control", wrongRegion)
    this.say(given)
  }

  /** @param {Commuting} given */
  say({ channel, error, control, commutes }) {
    this.root.dataset.commutes = String(commutes)
    write(this.sign, commutes === null ? "?" : commutes ? "=" : "≠")
    ;[error, control].forEach((value, i) => write(this.numbers[i], errorInWords(value)))
    if (this.channels.hidden) return
    this.range.value = String(channel)
    write(find(this.channels, "output", HTMLElement), `${channel + 1} of ${this.shape?.[0]}`)
  }

  /**
   * @param {Tensor[]} tensors
   * @param {number} from
   */
  bounds(tensors, from) {
    let [low, high] = this.flat ? [0, 0] : [Infinity, -Infinity]
    for (const { data } of tensors) {
      for (let i = from; i < from + (this.size ?? 0); i++) {
        low = Math.min(low, data[i])
        high = Math.max(high, data[i])
      }
    }
    return [low, high]
  }

  /**
   * @param {number} which of the two differences
   * @param {Tensor} a
   * @param {Tensor} b
   * @param {Region | null} region
   * @param {number} from
   * @returns {number} the largest there, in size
   */
  subtract(which, a, b, region, from) {
    const out = this.differences?.[which] ?? new Float32Array(0)
    const width = this.shape?.[2] ?? out.length
    let top = 0
    for (let i = 0; i < out.length; i++) {
      out[i] = a.data[from + i] - b.data[from + i]
      const [row, column] = [Math.floor(i / width), i % width]
      const { top: above = 0, bottom = Infinity, left = 0, right = Infinity } = (this.flat ? null : region) ?? {}
      if (row >= above && row < bottom && column >= left && column < right) top = Math.max(top, Math.abs(out[i]))
    }
    return top
  }

  /**
   * @param {string} of which map
   * @param {Float32Array} values
   * @param {number} low
   * @param {number} high
   * @param {number} from
   */
  paint(of, values, low, high, from) {
    const kind = of === "difference" || of === "control" ? "difference" : "feature"
    if (!this.flat) this.painters?.[of].paint(values, kind, low, high, from)
    else if (this.canvases) paintBars(this.canvases[of], values, kind, low, high, values.length <= LABELLED)
  }

  /**
   * @param {string} of which map
   * @param {Region | null} region
   */
  outline(of, region) {
    const outline = this.outlines[of]
    const empty = this.flat || !region || region.top >= region.bottom || region.left >= region.right
    outline.hidden = empty
    if (!region || empty || !this.shape) return
    const [, rows, columns] = this.shape
    const edges = [region.top / rows, 1 - region.right / columns, 1 - region.bottom / rows, region.left / columns]
    outline.style.inset = edges.map((share) => `${100 * share}%`).join(" ")
  }

  /** @param {number} share per cent of the corner that shows f(T x), from the left; the rest shows T f(x) */
  wipeTo(share) {
    this.wipe.value = String(share)
    this.both.style.setProperty("--wipe", `${share}%`)
  }

  /** Show one way round, then the other, in turn; at each press, for whoever wants nothing to move by itself. */
  blink() {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.wipeTo(this.wipe.value === "100" ? 0 : 100)
      return
    }
    const on = this.both.classList.toggle("square-blinking")
    this.blinker.setAttribute("aria-pressed", String(on))
  }
}

const BAR_ROOM = 200 // CSS pixels of a map that holds bars, drawn at twice that
const MAPS = ["before", "after", "expected", "difference", "control"]

/**
 * @param {string} of
 * @param {string} [label] for what is no map of a layer
 */
function canvas(of, label) {
  return `<canvas data-map="${of}" role="img"${label ? ` aria-label="${label}"` : ""}></canvas>`
}

/** @param {boolean} still */
function markup(still) {
  const label = "T x: the digit. Drag it, or move it with the arrow keys"
  const pad = still
    ? canvas("moved", "T x: the digit, moved")
    : `<canvas data-map="moved" width="${SIZE}" height="${SIZE}" tabindex="0" role="application" aria-label="${label}"></canvas>
       <i class="live-frame"></i><i class="live-cursor" hidden></i><span class="live-hint" aria-hidden="true">drag me</span>`
  const interior = `<i class="square-interior" hidden></i>`
  return `
  <div class="square-corner square-x"><b data-says="x"></b><div class="square-map">${canvas("x", "x: the digit where it was")}</div></div>
  <i class="square-arrow square-top" aria-hidden="true"><span class="square-f"></span></i>
  <div class="square-corner square-fx"><b data-says="before"></b><div class="square-map">${canvas("before")}</div></div>
  <i class="square-arrow square-down square-left" aria-hidden="true"><span>T</span></i>
  <i class="square-arrow square-down square-right" aria-hidden="true"><span>T</span></i>
  <div class="square-corner square-tx"><b data-says="moved"></b><div class="square-map live-pad">${pad}</div></div>
  <i class="square-arrow square-bottom" aria-hidden="true"><span class="square-f"></span></i>
  <div class="square-corner square-both"><b><span data-says="after" class="live-key-second"></span> <i class="square-sign"></i> <span data-says="expected" class="live-key-first"></span></b>
    <div class="square-map">${canvas("after")}<div class="square-over">${canvas("expected")}</div>${interior}<i class="square-edge"></i></div></div>
  <div class="square-corner square-control"><b>control: <span data-says="wrong"></span> <em data-square="control"></em></b>
    <div class="square-map">${canvas("control")}${interior}</div></div>
  <div class="square-corner square-difference"><b>difference <em data-square="error"></em></b>
    <div class="square-map">${canvas("difference")}${interior}</div></div>
  <div class="square-settings">
    <label class="square-wipe"><span class="live-unseen">How much of the corner shows f(T x), from the left</span><input type="range" name="square-wipe" min="0" max="100" value="50"></label>
    <button type="button" data-square="blink" aria-pressed="false">Blink</button></div>
  <label class="square-channel">channel <input type="range" name="square-channel" min="0" value="0" aria-label="Channel"><output></output></label>`
}
