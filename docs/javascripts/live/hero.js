// Home's first screen: a digit that drifts until it is touched, the convolution that moves along, and the fully connected
// layer that changes its mind.

import { SIZE } from "./ink.js"
import { softmax, zeros } from "./layers.js"
import { Pad } from "./pad.js"
import { Painter, paintBars } from "./painting.js"
import { RADIUS, argmax } from "./shiftmap.js"
import { OPENING, format, initialState } from "./state.js"
import { errorInWords, find, heroMarkup, shiftInWords, write } from "./view.js"

/** @typedef {import("./measuring.js").Probe} Probe */
/** @typedef {import("./sources.js").Source} Source */

const STEP = 320 // milliseconds that the drifting digit rests at each place
const REST = 400 // milliseconds of rest before a screen reader is told

/** One digit in the given network, and two of its layers. */
export class Hero {
  /**
   * @param {HTMLElement} root whose content is replaced
   * @param {Source} source
   */
  constructor(root, source) {
    this.root = root
    this.source = source
    this.state = { ...initialState(), ...OPENING }
    this.image = zeros([1, SIZE, SIZE])
    this.unrelated = zeros([1, SIZE, SIZE])
    this.shares = [new Float64Array(10), new Float64Array(10)]
    /** @type {Probe | null} */
    this.probe = null
    this.pending = 0
    this.place = 0
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.rest = undefined
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this.drift = undefined
    root.innerHTML = heroMarkup(root.getAttribute("page") ?? "live.html")
    this.pad = new Pad(root, {
      move: (dy, dx) => this.moveTo(dy, dx),
      shift: () => [this.state.dy, this.state.dx],
      draw: () => {},
      rest: () => {},
    })
    this.digit = new Painter(this.pad.canvas, SIZE, SIZE)
    root.addEventListener("pointerdown", ({ target }) => target === this.pad.canvas && this.still())
    root.addEventListener("click", (event) => this.onAction(event))
  }

  /** Load the network, and set the digit adrift, unless the reader wants nothing to move by itself. */
  async start() {
    this.probe = await this.source.probe("given", true)
    const [first, , last] = this.probe.network.layers
    this.layers = [first.name, last.name]
    this.map = new Painter(find(this.root, ".hero-map canvas", HTMLCanvasElement), first.shape[1], first.shape[2])
    this.bars = find(this.root, ".hero-bars canvas", HTMLCanvasElement)
    this.takeImage()
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) this.go()
    else this.still()
    this.frame()
  }

  /** @param {Event} event */
  onAction({ target }) {
    if (!(target instanceof HTMLElement)) return
    if (target.dataset.do === "drift") this.drift === undefined ? this.go() : this.still()
    if (target.dataset.do !== "next") return
    this.state.digit = (this.state.digit + 5) % this.source.digits.length
    this.takeImage()
    this.frame()
  }

  /** Let the digit drift; while nobody looks, it rests. */
  go() {
    write(find(this.root, "[data-do=drift]", HTMLElement), "Stop")
    this.drift = setInterval(() => {
      const { bottom } = this.root.getBoundingClientRect()
      if (document.hidden || bottom < 0) return
      this.place++
      ;[this.state.dy, this.state.dx] = path(this.place)
      this.frame()
    }, STEP)
  }

  still() {
    clearInterval(this.drift)
    this.drift = undefined
    write(find(this.root, "[data-do=drift]", HTMLElement), "Drift")
  }

  takeImage() {
    this.image.data.set(this.source.digits[this.state.digit])
    this.unrelated.data.set(this.source.unrelated(this.state.digit))
    this.probe?.take(this.image, this.unrelated)
  }

  /**
   * The reader moves the digit: from now on nobody else does.
   * @param {number} dy
   * @param {number} dx
   */
  moveTo(dy, dx) {
    if (this.drift !== undefined) this.still()
    const [y, x] = [dy, dx].map((t) => Math.min(Math.max(t, -RADIUS), RADIUS) + 0)
    if (y === this.state.dy && x === this.state.dx) return
    Object.assign(this.state, { dy: y, dx: x })
    this.pending ||= requestAnimationFrame(() => {
      this.pending = 0
      this.frame()
    })
    clearTimeout(this.rest)
    this.rest = setTimeout(() => {
      const heard = [...this.root.querySelectorAll("figcaption")].map(({ textContent }) => textContent?.trim())
      write(find(this.root, ".live-status", HTMLElement), `Moved ${shiftInWords(this.state.dy, this.state.dx)}. ${heard.join(". ")}.`)
    }, REST)
  }

  /** Measure and paint. */
  frame() {
    const { probe, state, layers, map, bars } = this
    if (!probe || !layers || !map || !bars) return
    const { dy, dx } = state
    const findings = probe.measure(dy, dx, "background")
    this.digit.paint(probe.moved.data, "image", 0, 1)
    this.pad.show(dy, dx)
    const { data } = probe.second[layers[0]]
    map.paint(data, "feature", Math.min(...data), Math.max(...data))
    const [before, after] = [probe.first, probe.second].map((outputs, i) => softmax(outputs[layers[1]], this.shares[i]))
    paintBars(bars, after, "feature", 0, 1, true)
    const said = { convolution: findings[0], connected: findings[findings.length - 1] }
    for (const [name, { error, control }] of Object.entries(said)) {
      write(find(this.root, `[data-of=${name}]`, HTMLElement), errorInWords(error))
      write(find(this.root, `[data-control=${name}]`, HTMLElement), errorInWords(control))
    }
    const [own, now] = [argmax(before), argmax(after)]
    const mind = own === now ? `${dy || dx ? "other values" : "says"}, still a ${now}` : `changes its mind: from ${own} to ${now}`
    write(find(this.root, "[data-says=mind]", HTMLElement), mind)
    write(find(this.root, "[data-says=along]", HTMLElement), said.convolution.error <= 1e-6 ? "moves along" : "does not move along")
    find(this.root, ".hero-bars", HTMLElement).dataset.same = String(own === now)
    const link = find(this.root, "[data-live-link]", HTMLAnchorElement)
    link.hash = format(state)
  }
}

/**
 * Where the drifting digit is: around the opening, in whole pixels.
 * @param {number} step
 */
function path(step) {
  const turn = (2 * Math.PI * step) / 40
  return [OPENING.dy - 2 + 2 * Math.cos(turn), OPENING.dx * Math.cos(turn / 2)].map((t) => Math.round(t) + 0)
}
