// What is there on request: the sort test with its traps, and the questions to predict.

import { askedLayers, grade } from "./challenge.js"
import { zeros } from "./layers.js"
import { isExact } from "./measuring.js"
import { equivarianceError, invarianceError, sortPositions } from "./metrics.js"
import { paintCurves } from "./painting.js"
import { Maps } from "./maps.js"
import { shift } from "./shifting.js"
import { NETWORKS, errorInWords, find, mapMarkup, shiftInWords, write } from "./view.js"

/** @typedef {import("./measuring.js").Finding} Finding */
/** @typedef {import("./measuring.js").Probe} Probe */
/** @typedef {import("./network.js").Network} Network */
/** @typedef {import("./state.js").State} State */

/** The sort test of one layer, also behind a flip or a scramble of its output. */
export class SortPanel {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root
    this.canvas = find(root, "canvas", HTMLCanvasElement)
    this.maps = find(root, "[data-maps]", HTMLElement)
    this.text = find(root, ".live-sorted", HTMLElement)
    this.layer = ""
  }

  /**
   * Make room for a layer.
   * @param {Finding} finding
   */
  prepare({ layer }) {
    this.layer = layer.name
    this.maps.innerHTML = ["g(T x)", "T g(x)", "difference"].map((caption) => mapMarkup(layer.name, caption)).join("")
    this.painted = new Maps(this.maps, layer.shape)
    this.order = scramble(this.painted.size)
    const [first, second, other, expected] = Array.from({ length: 4 }, () => zeros(layer.shape))
    this.room = { first, second, other, expected, sorted: [first, second, other].map(() => zeros(layer.shape)) }
  }

  /**
   * @param {Finding} finding of the layer
   * @param {Probe} probe
   * @param {State} state
   */
  show(finding, probe, state) {
    const { layer, move, region } = finding
    if (layer.name !== this.layer || this.room?.first.data.length !== finding.expected.data.length) this.prepare(finding)
    if (!this.room || !this.order || !this.painted) return
    const { first, second, other, expected, sorted } = this.room
    const size = this.painted.size
    const sources = [probe.first, probe.second, probe.other]
    const outputs = [first, second, other]
    outputs.forEach((out, i) => rearrange(sources[i][layer.name].data, out.data, state.trap, size, this.order ?? []))
    outputs.forEach((out, i) => sortPositions(out, sorted[i]))
    shift(first, move[0], move[1], state.mode, 0, expected)
    const channel = state.channels[layer.name] ?? 0
    const moved = state.dy !== 0 || state.dx !== 0
    this.painted.show(second, expected, channel, moved ? region : null)
    paintCurves(this.canvas, [0, 1].map((i) => sorted[i].data.subarray(channel * size, (channel + 1) * size)))
    const distance = invarianceError(sorted[0], sorted[1], layer.unrelated_sorted_distance)
    const control = invarianceError(sorted[2], sorted[1], layer.unrelated_sorted_distance)
    this.say(distance, control, equivarianceError(second, expected, region), state.trap, moved, finding)
  }

  /**
   * @param {number} distance
   * @param {number} control
   * @param {number} error
   * @param {import("./state.js").Trap} trap
   * @param {boolean} moved
   * @param {Finding} finding
   */
  say(distance, control, error, trap, moved, { onStride, same }) {
    const done = { none: "as it is", flip: "flipped", scramble: "scrambled" }[trap]
    const numbers = `g is the layer's output, ${done}. Sorted distance: ${errorInWords(distance)} (control, another image: ${errorInWords(control)}). Equivariance error of the interior: ${errorInWords(error)}.`
    let lesson = `Sorted, g has the same values as before, since sorting forgets positions. But g does not move along with the digit: passing the sort test does not make a layer equivariant.`
    if (!moved) lesson = "Move the digit: without a shift, every test is passed."
    else if (same) lesson = "There is nothing to see: moved, this image is the same as before. Every test is passed."
    else if (!onStride) lesson = "The stride does not divide the shift: the values are others, and did not merely move."
    else if (trap === "none") lesson = "The same values, moved along. What the sorted distance shows has entered or left the frame."
    else if (isExact(error)) lesson = "This map is the same wherever you look; nobody can tell whether it moved."
    write(this.text, `${numbers} ${lesson}`)
  }
}

/**
 * What the trap does to a layer's output.
 * @param {Float32Array} from
 * @param {Float32Array} to overwritten
 * @param {import("./state.js").Trap} trap
 * @param {number} size positions of a channel
 * @param {ArrayLike<number>} order in which a scramble takes them
 */
function rearrange(from, to, trap, size, order) {
  for (let i = 0; i < from.length; i++) {
    const position = i % size
    const source = trap === "flip" ? size - 1 - position : trap === "scramble" ? order[position] : position
    to[i] = from[i - position + source]
  }
}

/**
 * One order of positions, the same each time.
 * @param {number} size
 */
function scramble(size) {
  const order = Array.from({ length: size }, (_, i) => i)
  let state = 1
  for (let i = size - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    const j = Math.floor((state / 2 ** 32) * (i + 1))
    ;[order[i], order[j]] = [order[j], order[i]]
  }
  return order
}

/** Asks before it shows, and keeps score. */
export class Challenge {
  /**
   * @param {HTMLFormElement} form
   * @param {{ next: () => void, leave: () => void, reveal: () => void }} tell
   */
  constructor(form, tell) {
    this.form = form
    this.score = { right: 0, asked: 0 }
    form.addEventListener("submit", (event) => {
      event.preventDefault()
      this.check()
      tell.reveal()
    })
    form.addEventListener("click", ({ target }) => {
      const { action } = target instanceof HTMLElement ? target.dataset : {}
      if (action === "next") tell.next()
      if (action === "leave") tell.leave()
    })
  }

  /**
   * @param {State} state of the question
   * @param {Network} network
   * @param {boolean} focus whether to lead the reader there
   */
  ask(state, network, focus) {
    this.state = state
    this.network = network
    const boxes = askedLayers(network.layers).map(
      ({ name }) => `<label><input type="checkbox" name="live-exact" value="${name}"> ${name}</label>`,
    )
    const enters = state.mode === "wrap" ? "at the edge, it wraps around" : "at the edge, background enters"
    this.form.innerHTML = `
      <p>The digit moves <strong>${shiftInWords(state.dy, state.dx)}</strong>; ${enters}. The network is
        <strong>${NETWORKS[state.network]}</strong>, ${state.trained ? "trained" : "untrained"}.</p>
      <fieldset><legend><strong>Whose square commutes?</strong> Convolutions and pooling: does the map move along, in its
        interior? Fully connected: does the output stay the same?</legend>${boxes.join("")}</fieldset>
      <p class="live-buttons"><button type="submit">Show me</button> <button type="button" data-action="leave">No more questions</button></p>`
    this.form.hidden = false
    if (focus) find(this.form, "input", HTMLInputElement).focus()
  }

  /** Compare the reader's expectation with theory; the measured maps are shown below. */
  check() {
    if (!this.state || !this.network) return
    const boxes = /** @type {NodeListOf<HTMLInputElement>} */ (this.form.querySelectorAll("input:checked"))
    const chosen = new Set([...boxes].map(({ value }) => value))
    const graded = grade(this.network.layers, chosen, this.state.dy, this.state.dx)
    this.score.asked += graded.length
    this.score.right += graded.filter(({ right }) => right).length
    const rows = graded.map(
      ({ layer, exact, why, right }) =>
        `<li data-right="${right}"><b>${right ? "Right" : "Not so"}</b>: ${layer.name} ${exact ? "commutes" : "need not commute"}, since ${why}.</li>`,
    )
    this.form.innerHTML = `
      <p>The digit moved <strong>${shiftInWords(this.state.dy, this.state.dx)}</strong>.</p>
      <ul>${rows.join("")}</ul>
      <p role="status">${this.score.right} of ${this.score.asked} layers right so far. Look: is that what the network did?</p>
      <p class="live-buttons"><button type="button" data-action="next">Next question</button> <button type="button" data-action="leave">No more questions</button></p>`
    find(this.form, "button", HTMLButtonElement).focus()
  }
}
