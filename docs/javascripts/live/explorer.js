// The state of the live network, and what follows from a change of it.

import { question } from "./challenge.js"
import { compareMarkup } from "./compare.js"
import { SIZE } from "./ink.js"
import { Joystick } from "./joystick.js"
import { softmax, zeros } from "./layers.js"
import { reason } from "./loading.js"
import { Pad } from "./pad.js"
import { Painter } from "./painting.js"
import { Challenge, SortPanel } from "./panels.js"
import { Says } from "./says.js"
import { RADIUS, argmax } from "./shiftmap.js"
import { Square } from "./square.js"
import { format, initialState, parse } from "./state.js"
import { Strip } from "./strip.js"
import { MARKUP, NETWORKS, errorInWords, factsInWords, find, layerInWords, shiftInWords, summary, verdict, write } from "./view.js"

/** @typedef {import("./measuring.js").Finding} Finding */
/** @typedef {import("./measuring.js").Probe} Probe */
/** @typedef {import("./sources.js").Source} Source */
/** @typedef {import("./state.js").State} State */

const PAUSE = 400 // milliseconds of rest before the address and a screen reader are told

/** The live lab: its parts on the page, and its state. A change of state asks for a frame, which shows it. */
export class Explorer {
  /**
   * @param {HTMLElement} root `live-lab`, whose content is replaced
   * @param {Source} source
   */
  constructor(root, source) {
    this.root = root
    this.source = source
    this.digits = source.digits
    this.state = initialState()
    this.image = zeros([1, SIZE, SIZE])
    this.unrelated = zeros([1, SIZE, SIZE])
    this.probabilities = [new Float64Array(10), new Float64Array(10)]
    /** @type {Map<string, Probe>} */
    this.probes = new Map()
    /** @type {Probe | null} */
    this.probe = null
    /** @type {Finding[]} */
    this.findings = []
    this.layer = "" // whose square has room made for it
    this.revealed = true
    this.asked = false // the reader has asked for a question, rather than come by an address with one
    this.wanted = ""
    this.compared = 0
    this.pending = 0
    this.frames = 0
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.rest = undefined
    root.innerHTML = MARKUP
    this.summary = find(root, ".live-summary", HTMLElement)
    this.status = find(root, ".live-status", HTMLElement)
    this.alert = find(root, ".live-error", HTMLElement)
    this.said = find(root, ".live-layer", HTMLElement)
    this.square = new Square(find(root, ".live-square", HTMLElement), { channel: (channel) => this.chooseChannel(channel) })
    this.strip = new Strip(find(root, ".live-strip", HTMLElement), (layer) => this.change({ layer }))
    this.says = new Says(find(root, ".live-says", HTMLElement))
    this.joystick = new Joystick(
      root,
      (dy, dx) => this.moveTo(dy, dx),
      () => [this.state.dy, this.state.dx],
    )
    this.pad = this.buildPad()
    this.panels = this.buildPanels()
    this.fillGallery()
    root.addEventListener("click", (event) => this.onAction(event))
    root.addEventListener("input", (event) => this.onInput(event))
    addEventListener("hashchange", ({ newURL }) => this.onHash(new URL(newURL).hash)) // the address may be written since
  }

  buildPad() {
    return new Pad(this.root, {
      move: (dy, dx) => this.moveTo(dy, dx),
      shift: () => [this.state.dy, this.state.dx],
      draw: (press) => {
        const ink = this.state.ink?.slice() ?? new Float32Array(SIZE * SIZE)
        press(ink)
        this.change({ ink })
      },
      rest: () => this.paintMap(),
    })
  }

  fillGallery() {
    const gallery = find(this.root, ".live-gallery", HTMLElement)
    const { labels, indices } = this.source.manifest.digits
    labels.forEach((label, i) => {
      const option = document.createElement("label")
      option.innerHTML = `<input type="radio" name="live-digit" value="${i}"><canvas role="img"></canvas>`
      const canvas = find(option, "canvas", HTMLCanvasElement)
      canvas.setAttribute("aria-label", `a ${Number(label)}, test image ${Number(indices[i])}`)
      new Painter(canvas, SIZE, SIZE).paint(this.digits[i], "image", 0, 1)
      gallery.append(option)
    })
    const folded = find(this.root, ".live-digits", HTMLDetailsElement)
    addEventListener("pointerdown", ({ target }) => {
      if (target instanceof Node && !folded.contains(target)) folded.open = false
    })
    folded.addEventListener("keydown", ({ key }) => {
      if (key !== "Escape") return
      folded.open = false
      find(folded, "summary", HTMLElement).focus()
    })
  }

  buildPanels() {
    const { root } = this
    for (const panel of /** @type {NodeListOf<HTMLDetailsElement>} */ (root.querySelectorAll("details[data-panel]"))) {
      panel.addEventListener("toggle", () => this.onToggle(panel))
    }
    return {
      sort: new SortPanel(find(root, "[data-panel=sort]", HTMLElement)),
      challenge: new Challenge(find(root, ".live-challenge", HTMLFormElement), {
        next: () => this.ask(this.state.question + 1),
        leave: () => this.ask(0),
        reveal: () => this.reveal(true),
      }),
    }
  }

  /**
   * Show what an address says.
   * @param {string} hash
   */
  async restore(hash = location.hash) {
    const wanted = parse(hash, this.digits.length)
    if (this.probe && format(wanted) === format(this.state)) return
    this.state = wanted
    await this.apply()
  }

  /**
   * The reader has followed a link, to a state or to a section of the page, or has edited the address.
   * @param {string} hash
   */
  onHash(hash) {
    if (hash && !hash.includes("=")) return
    this.restore(hash).then(() => this.lead())
  }

  /** To what the address opens: a panel, the shift map, or the digit. Once it is drawn, so that it stays there. */
  lead() {
    const { sort, map, compare } = this.state
    const panel = sort !== null ? "sort" : compare ? "compare" : map ? "map" : ""
    const place = panel ? find(this.root, `[data-panel=${panel}]`, HTMLElement) : this.root
    requestAnimationFrame(() => place.scrollIntoView({ block: panel === "map" ? "nearest" : "start" }))
  }

  /**
   * Take over a choice, and show what it makes.
   * @param {Partial<State>} choice
   */
  change(choice) {
    const before = this.state
    this.state = { ...before, ...choice }
    const differs = (/** @type {(keyof State)[]} */ ...keys) => keys.some((key) => this.state[key] !== before[key])
    if (differs("network", "trained", "question")) {
      this.apply()
      return
    }
    if (differs("digit", "ink")) this.takeImage()
    if (differs("digit", "ink", "mode")) this.paintMap()
    if (differs("digit", "ink", "mode", "compare")) this.compare()
    this.request()
  }

  /** Everything anew: network, image, panels. */
  async apply() {
    const { state } = this
    if (state.question) {
      Object.assign(state, question(state.question, this.digits.length))
      this.reveal(false)
    }
    const key = `${state.network}-${state.trained}`
    this.wanted = key
    this.root.setAttribute("aria-busy", "true")
    try {
      const probe = this.probes.get(key) ?? (await this.source.probe(state.network, state.trained))
      this.probes.set(key, probe)
      if (this.wanted === key) this.adopt(probe) // else the reader has chosen another one meanwhile
    } catch (error) {
      if (this.wanted === key) this.fail(error)
    } finally {
      if (this.wanted === key) this.root.setAttribute("aria-busy", "false")
    }
  }

  /**
   * Say what went wrong, and go on with the network that is there, if one is.
   * @param {unknown} error
   */
  fail(error) {
    const { network, trained, question: number } = this.state
    const button = document.createElement("button")
    button.type = "button"
    button.textContent = "Try again"
    button.onclick = () => {
      Object.assign(this.state, { network, trained, question: number })
      this.apply()
    }
    this.alert.textContent = `That network is not there: ${reason(error)}. All else goes on. `
    this.alert.append(button)
    this.alert.hidden = false
    const { description } = this.probe?.network ?? {}
    if (description) Object.assign(this.state, { network: description.name, trained: description.trained, question: 0 })
    this.takeImage()
    this.reveal(true)
  }

  /**
   * Show a network's layers.
   * @param {Probe} probe
   */
  adopt(probe) {
    const { state, root, panels } = this
    const { layers } = probe.network
    this.probe = probe
    this.layer = ""
    this.alert.hidden = true
    this.strip.take(layers)
    const channels = layers.map(({ name, shape, stride }) => {
      return [name, stride === null ? 0 : Math.min(state.channels[name] ?? 0, shape[0] - 1)]
    })
    state.channels = Object.fromEntries(channels)
    if (!layers.some(({ name }) => name === state.layer)) state.layer = null
    const maps = layers.filter(({ stride }) => stride !== null).map(({ name }) => name)
    find(root, "[name=live-sort]", HTMLSelectElement).replaceChildren(...maps.map((name) => new Option(name)))
    if (state.sort !== null && !maps.includes(state.sort)) state.sort = maps[0]
    write(find(root, ".live-facts", HTMLElement), `The network: ${factsInWords(probe.network.description, this.source.manifest)}`)
    // here, and not in every frame: one might come between the reader's click and the panel's event
    find(root, "[data-panel=sort]", HTMLDetailsElement).open = state.sort !== null
    find(root, "[data-panel=compare]", HTMLDetailsElement).open = state.compare
    if (state.question) panels.challenge.ask(state, probe.network, this.asked)
    this.takeImage()
    this.reveal(!state.question)
  }

  /** Run the network on the chosen digit, and on another one. */
  takeImage() {
    const { ink, digit } = this.state
    this.image.data.set(ink ?? this.digits[digit])
    this.unrelated.data.set(this.source.unrelated(digit))
    this.probe?.take(this.image, this.unrelated)
  }

  /** Begin the shift map anew. */
  paintMap() {
    const { state, probe, joystick } = this
    if (!this.revealed || this.pad.drawing || !probe) {
      joystick.clear()
      return
    }
    const own = argmax(probe.first[probe.network.head].data)
    const target = state.ink ? own : this.source.manifest.digits.labels[state.digit]
    joystick.start(probe.network, this.image, state.mode, target, state.ink ? `${own}, as without a shift` : `a ${target}`)
  }

  /** Both networks side by side, where that is open, once the reader rests. */
  compare() {
    clearTimeout(this.compared)
    if (this.state.compare) this.compared = setTimeout(() => this.showCompared(), PAUSE / 2)
  }

  async showCompared() {
    const { image, unrelated, state } = this
    const place = find(this.root, ".live-compare", HTMLElement)
    try {
      const tables = []
      for (const name of /** @type {const} */ (["given", "pooled"])) {
        const probe = await this.source.probe(name, state.trained)
        probe.take(image, unrelated)
        tables.push(compareMarkup(probe, NETWORKS[name], state.mode))
      }
      place.innerHTML = tables.join("")
    } catch (error) {
      write(place, `There is nothing to set beside: ${reason(error)}.`)
    }
  }

  /** A frame soon: one at most for each that the browser draws. */
  request() {
    this.pending ||= requestAnimationFrame(() => {
      this.pending = 0
      this.frame()
    })
  }

  /** Measure and paint everything that a shift changes. */
  frame() {
    const { state, probe, panels } = this
    const { dy, dx } = state
    this.frames++
    this.showSettings()
    if (probe) this.findings = probe.measure(dy, dx, state.mode)
    if (probe) this.showLayer(probe)
    this.pad.show(dy, dx)
    if (probe && this.revealed) {
      this.strip.show(this.findings, state.layer ?? probe.network.layers[0].name, dy, dx)
      this.showProbabilities(probe)
      const sorted = this.findings.find(({ layer }) => layer.name === state.sort)
      if (sorted) panels.sort.show(sorted, probe, state)
      this.joystick.mark(dy, dx)
    }
    clearTimeout(this.rest)
    this.rest = setTimeout(() => {
      this.rest = 0
      this.settle()
    }, PAUSE)
  }

  /**
   * The square of the chosen layer, and what is said of it.
   * @param {Probe} probe
   */
  showLayer(probe) {
    const { state, findings } = this
    const finding = findings.find(({ layer }) => layer.name === state.layer) ?? findings[0]
    const { layer, expected, region, wrong, wrongRegion, error, full, control } = finding
    const { dy, dx } = state
    const flat = layer.stride === null
    if (this.layer !== layer.name) {
      this.layer = layer.name
      this.square.take({ name: layer.name, shape: layer.shape, image: [1, SIZE, SIZE] })
    }
    const { exact, seen, told, why } = verdict(finding, dy, dx)
    this.square.show({
      ...{ x: this.image, moved: probe.moved, before: probe.first[layer.name], after: probe.second[layer.name] },
      ...{ expected, region, wrong, wrongRegion, channel: state.channels[layer.name] ?? 0, error, control, commutes: exact },
    })
    if (!this.revealed) return
    write(find(this.said, ".live-name strong", HTMLElement), layer.name)
    write(find(this.said, ".live-name span", HTMLElement), layerInWords(layer))
    const badge = find(this.said, ".live-verdict", HTMLElement)
    badge.dataset.exact = String(exact)
    write(find(badge, "b", HTMLElement), seen)
    const near = finding.onStride || flat ? "" : "; T f(x) is moved by the nearest whole positions"
    write(find(badge, "span", HTMLElement), told ? `Theory: ${told}, since ${why}${near}.` : "")
    const terms = this.said.querySelectorAll("dt")
    write(terms[0], flat ? "error" : "error of the interior")
    write(terms[2], flat ? "control: another image" : "control: one step wrong")
    for (const value of this.said.querySelectorAll("dd")) {
      write(value, errorInWords({ error, full, control }[/** @type {"error"} */ (value.dataset.of)]))
    }
    terms[1].parentElement?.toggleAttribute("hidden", flat)
  }

  /** @param {number} channel of the layer whose square is shown */
  chooseChannel(channel) {
    this.change({ channels: { ...this.state.channels, [this.layer]: channel } })
  }

  /** @param {Probe} probe */
  showProbabilities(probe) {
    const { dy, dx } = this.state
    const shares = [probe.first, probe.second].map((outputs, i) => softmax(outputs[probe.network.head], this.probabilities[i]))
    const [before, after] = shares.map((share) => ({ class: argmax(share), probability: share[argmax(share)] }))
    this.says.show(shares)
    write(this.summary, summary(this.findings, dy, dx, before, after))
  }

  /** Make every input show what the state says. */
  showSettings() {
    const { state, root } = this
    for (const [name, value] of Object.entries({ dy: state.dy, dx: state.dx })) {
      const range = root.querySelector(`[name=live-${name}]`)
      if (range instanceof HTMLInputElement) range.value = String(value)
      const output = root.querySelector(`output[data-of=${name}]`)
      if (output instanceof HTMLElement) write(output, String(value))
    }
    this.check("network", state.network)
    this.check("weights", state.trained ? "trained" : "untrained")
    this.check("mode", state.mode)
    this.check("trap", state.trap)
    this.check("tool", this.pad.tool)
    this.check("digit", state.ink ? null : String(state.digit))
    if (state.sort !== null) find(root, "[name=live-sort]", HTMLSelectElement).value = state.sort
  }

  /**
   * Check one of some radio buttons.
   * @param {string} name
   * @param {string | null} value null for none of them
   */
  check(name, value) {
    for (const radio of this.root.querySelectorAll(`input[name=live-${name}]`)) {
      if (radio instanceof HTMLInputElement && radio.checked !== (radio.value === value)) radio.checked = !radio.checked
    }
  }

  /** When the reader rests: write the address, and tell a screen reader. */
  settle() {
    const { dy, dx } = this.state
    write(this.status, this.revealed ? (this.summary.textContent ?? "") : `The digit moved ${shiftInWords(dy, dx)}.`)
    const hash = format(this.state)
    if (location.hash.slice(1) !== hash) history.replaceState(null, "", `#${hash}`)
  }

  /** @param {Event} event */
  onInput({ target }) {
    if (!(target instanceof HTMLInputElement || target instanceof HTMLSelectElement)) return
    const { value } = target
    const choices = /** @type {Record<string, () => void>} */ ({
      "live-dy": () => this.change({ dy: Number(value) }),
      "live-dx": () => this.change({ dx: Number(value) }),
      "live-network": () => this.change({ network: value === "pooled" ? "pooled" : "given", question: 0 }),
      "live-weights": () => this.change({ trained: value === "trained", question: 0 }),
      "live-mode": () => this.change({ mode: value === "wrap" ? "wrap" : "background" }),
      "live-digit": () => this.pick(Number(value)),
      "live-sort": () => this.change({ sort: value }),
      "live-trap": () => this.change({ trap: value === "flip" || value === "scramble" ? value : "none" }),
      "live-tool": () => this.take(value === "draw" ? "draw" : "move"),
    })
    choices[target.name]?.()
  }

  /** @param {Event} event */
  onAction({ target }) {
    const actions = /** @type {Record<string, () => void>} */ ({
      clear: () => this.change({ ink: new Float32Array(SIZE * SIZE) }),
      link: () => this.copyLink(),
      ask: () => this.ask(1 + Math.floor(9998 * Math.random())),
      reset: () => this.reset(),
    })
    if (target instanceof HTMLElement && target.dataset.do) actions[target.dataset.do]?.()
  }

  /** As at first. */
  reset() {
    this.take("move")
    this.state = parse("", this.digits.length)
    this.apply()
  }

  /** @param {number} digit */
  pick(digit) {
    this.take("move")
    this.change({ digit, ink: null })
  }

  /** @param {"move" | "draw"} tool */
  take(tool) {
    this.pad.take(tool)
    find(this.root, ".live-help", HTMLElement).hidden = tool === "move"
    if (tool === "draw" && !this.state.ink) this.change({ ink: new Float32Array(SIZE * SIZE), dy: 0, dx: 0 })
    this.request()
  }

  /**
   * @param {number} dy
   * @param {number} dx
   */
  moveTo(dy, dx) {
    const [y, x] = [dy, dx].map((t) => Math.min(Math.max(t, -RADIUS), RADIUS) + 0)
    if (y !== this.state.dy || x !== this.state.dx) this.change({ dy: y, dx: x })
  }

  /** @param {HTMLDetailsElement} panel */
  onToggle(panel) {
    const { state } = this
    if (panel.dataset.panel === "compare" && panel.open !== state.compare) this.change({ compare: panel.open })
    if (panel.dataset.panel === "sort" && panel.open !== (state.sort !== null)) {
      this.change(panel.open ? { sort: find(panel, "select", HTMLSelectElement).value } : { sort: null, trap: "none" })
    }
  }

  /**
   * Show the answers, or hide them from everybody while a question is open.
   * @param {boolean} revealed
   */
  reveal(revealed) {
    this.revealed = revealed
    this.pad.enabled = revealed
    for (const answer of this.root.querySelectorAll(".live-revealed")) answer.toggleAttribute("hidden", !revealed)
    this.square.root.toggleAttribute("data-asking", !revealed)
    if (!this.state.question) find(this.root, ".live-challenge", HTMLElement).hidden = true
    for (const setting of this.root.querySelectorAll(".live-setting, .live-sliders input")) {
      setting.toggleAttribute("disabled", !revealed)
    }
    if (!revealed) write(this.summary, "Predict first: whose square commutes?")
    this.paintMap()
    this.compare()
    this.request()
  }

  /** @param {number} number of the question; 0 ends the challenge */
  ask(number) {
    this.asked = true
    this.take("move")
    this.change({ question: number > 9999 ? 1 : number })
    if (!number) find(this.root, "[data-do=ask]", HTMLElement).focus()
  }

  async copyLink() {
    this.settle()
    const button = find(this.root, "[data-do=link]", HTMLElement)
    try {
      await navigator.clipboard.writeText(location.href)
      write(button, "Copied")
    } catch {
      write(button, "Copy this page's address")
    }
    write(this.status, button.textContent ?? "")
    setTimeout(() => write(button, "Copy link"), 3000)
  }
}
