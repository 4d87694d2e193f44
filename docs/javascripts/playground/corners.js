// The commuting square of the chosen block, and what it sees, drawn on the digit.

import { Square } from "../live/square.js"
import { find } from "../live/view.js"
import { comparable, wrongMove } from "./comparison.js"
import { room } from "./computing.js"
import { WINDOWS, seenInWords } from "./markup.js"
import { shifted } from "./verdicts.js"

/** @typedef {import("../live/layers.js").Tensor} Tensor */
/** @typedef {import("../live/shifting.js").Region} Region */
/** @typedef {import("./comparison.js").Grid} Grid */
/** @typedef {import("./verdicts.js").Finding} Finding */
/** @typedef {import("./verdicts.js").Probe} Probe */

/** Shows one block of a network. */
export class Corners {
  /**
   * @param {HTMLElement} root
   * @param {() => void} again asks for a frame
   */
  constructor(root, again) {
    this.channel = 0
    this.square = new Square(root, {
      channel: (channel) => {
        this.channel = channel
        again()
      },
    })
    const picture = find(root, ".square-x .square-map", HTMLElement)
    picture.insertAdjacentHTML("beforeend", WINDOWS)
    this.window = find(picture, ".net-window", HTMLElement)
    this.inside = find(picture, ".net-inside", HTMLElement)
    this.frame = find(root, ".live-frame", HTMLElement)
  }

  /**
   * Make room for a block.
   * @param {Probe} probe
   * @param {number} at
   */
  take({ chain, geometry }, at) {
    const shape = chain.shapes[at + 1]
    this.channel = shape.length === 1 ? 0 : Math.min(this.channel, shape[0] - 1)
    const flat = !geometry[at].grid && shape.length === 3 ? [shape[0] * shape[1] * shape[2]] : shape
    this.square.take({ name: chain.names[at], shape: flat, image: chain.shapes[0] })
    const make = () => ({ data: new Float32Array(shape.reduce((a, b) => a * b, 1)), shape })
    this.tensors = { before: make(), after: make(), expected: make(), wrong: make() }
    this.scratch = room(shape)
    this.windows(geometry[at].grid)
  }

  /**
   * What the output in the middle sees, and where the outputs stand that see no border.
   * @param {Grid | null} grid
   */
  windows(grid) {
    const known = grid && grid.every(({ step, receptiveField }) => step && receptiveField) ? grid : null
    this.window.hidden = !known
    this.inside.hidden = !known || known.some(({ interior }) => interior[0] >= interior[1])
    if (!known) return
    const spans = known.map((axis) => {
      const [step, sees, first] = [axis.step ? axis.step[0] / axis.step[1] : 1, axis.receptiveField ?? 1, axis.offset ?? 0]
      const begin = first + step * Math.floor(axis.outputs / 2)
      const middle = (/** @type {number} */ j) => first + step * j + sees / 2
      const [from, to] = [middle(axis.interior[0]) - step / 2, middle(axis.interior[1] - 1) + step / 2]
      return { size: axis.size, window: [begin, begin + sees], inside: [from, to] }
    })
    place(this.window, spans.map(({ size, window: [a, b] }) => [a / size, b / size]))
    place(this.inside, spans.map(({ size, inside: [a, b] }) => [a / size, b / size]))
  }

  /**
   * @param {Probe} probe
   * @param {Finding} finding
   * @param {number} at
   * @param {Tensor} x in 0 to 1
   * @param {Tensor} moved T x
   * @param {{ dy: number, dx: number, wrap: boolean }} shift
   */
  show(probe, finding, at, x, moved, { dy, dx, wrap }) {
    if (!this.tensors || !this.scratch) return
    const { tensors, scratch, channel } = this
    const [a, b, other] = [probe.first, probe.second, probe.other].map(({ outputs }) => outputs[at + 1])
    const { grid } = finding.geometry
    tensors.before.data.set(a.data)
    tensors.after.data.set(b.data)
    tensors.expected.data.set(a.data)
    tensors.wrong.data.set(other.data)
    let [region, wrongRegion] = /** @type {(Region | null)[]} */ ([null, null])
    if (grid && finding.moved) {
      const wrong = wrongMove(grid, [dy, dx], wrap)
      const blank = probe.blank.outputs[at + 1]
      const fill = (/** @type {number} */ c) => middleOf(blank, c)
      for (const [name, move] of /** @type {["expected" | "wrong", readonly number[]][]} */ ([["expected", finding.move], ["wrong", wrong]])) {
        shifted(a, move[0], move[1], wrap, fill, scratch)
        tensors[name].data.set(scratch.data)
      }
      region = dy || dx ? regionOf(grid, finding.move, [dy, dx], wrap) : null
      wrongRegion = regionOf(grid, wrong, [dy, dx], wrap)
    }
    const { exact } = seenInWords(finding, dy, dx)
    const numbers = { error: exact ? 0 : finding.error, control: finding.control, commutes: exact }
    const { before, after, expected, wrong } = tensors
    this.square.show({ x, moved, before, after, expected, region, wrong, wrongRegion, channel, ...numbers })
    this.frame.style.translate = `${(100 * dx) / x.shape[2]}% ${(100 * dy) / x.shape[1]}%`
    this.frame.hidden = !dy && !dx
  }
}

/**
 * @param {HTMLElement} element
 * @param {readonly number[][]} shares of the picture: from, to, along rows and along columns
 */
function place(element, shares) {
  const [y, x] = shares.map(([from, to]) => [Math.max(from, 0), Math.min(to, 1)])
  element.style.inset = [y[0], 1 - x[1], 1 - y[1], x[0]].map((share) => `${100 * share}%`).join(" ")
}

/**
 * The value in the middle of a channel.
 * @param {import("./computing.js").Tensor} tensor
 * @param {number} channel
 */
function middleOf({ data, shape }, channel) {
  const [, height, width] = shape
  return data[(channel * height + Math.floor(height / 2)) * width + Math.floor(width / 2)]
}

/**
 * The set J, or all that has a counterpart where J is empty, as a region of the map of the moved image.
 * @param {Grid} grid
 * @param {readonly number[]} move
 * @param {readonly number[]} t
 * @param {boolean} wrap
 * @returns {Region}
 */
function regionOf(grid, move, t, wrap) {
  const axes = grid.map((axis, i) => comparable(axis, move[i], wrap, t[i] === 0))
  const some = axes.every(({ inside }) => inside.some(Boolean))
  const [y, x] = axes.map(({ here, inside }) => {
    const chosen = some ? here.filter((_, i) => inside[i]) : here
    return chosen.length ? [chosen[0], chosen[chosen.length - 1] + 1] : [0, 0]
  })
  return { top: y[0], bottom: y[1], left: x[0], right: x[1] }
}
