// The state of the live network, and what follows from a change of it.

import { question } from "./challenge.js"
import { SIZE } from "./ink.js"
import { softmax, zeros } from "./layers.js"
import { LoadError, loadFile, reason } from "./loading.js"
import { Probe } from "./measuring.js"
import { Network, fromHalves } from "./network.js"
import { Pad } from "./pad.js"
import { Painter } from "./painting.js"
import { Challenge, MapPanel, SortPanel } from "./panels.js"
import { LayerRow, write } from "./rows.js"
import { RADIUS, argmax } from "./shiftmap.js"
import { format, initialState, parse } from "./state.js"
import { MARKUP, compactMarkup, factsInWords, find, shiftInWords, summary } from "./view.js"

/** @typedef {import("./loading.js").Manifest} Manifest */
/** @typedef {import("./measuring.js").Finding} Finding */
/** @typedef {import("./state.js").State} State */

const PAUSE = 400 // milliseconds of rest before the address and a screen reader are told

/** One live network: its parts on the page, and its state. A change of state asks for a frame, which shows it. */
export class Explorer {
  /**
   * @param {HTMLElement} root `live-lab`, whose content is replaced
   * @param {URL} folder
   * @param {Manifest} manifest
   * @param {Uint8Array} digits
   */
  constructor(root, folder, manifest, digits) {
    this.root = root
    this.folder = folder
    this.manifest = manifest
    this.compact = root.hasAttribute("compact")
    this.digits = manifest.digits.labels.map((_, i) =>
      Float32Array.from(digits.subarray(i * SIZE * SIZE, (i + 1) * SIZE * SIZE), (byte) => byte / 255),
    )
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
    /** @type {LayerRow[]} */
    this.rows = []
    this.revealed = true
    this.asked = false // the reader has asked for a question, rather than come by an address with one
    this.wanted = ""
    this.pending = 0
    this.frames = 0
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.rest = undefined
    root.innerHTML = this.compact ? compactMarkup(root.getAttribute("page") ?? "live.html") : MARKUP
    this.cells = /** @type {HTMLElement[]} */ ([...root.querySelectorAll(".live-probabilities td")])
    this.summary = find(root, ".live-summary", HTMLElement)
    this.status = find(root, ".live-status", HTMLElement)
    this.alert = find(root, ".live-error", HTMLElement)
    this.pad = this.buildPad()
    root.addEventListener("click", (event) => this.onAction(event))
    root.addEventListener("input", (event) => this.onInput(event))
    if (this.compact) return
    this.panels = this.buildPanels()
    this.fillGallery()
    addEventListener("hashchange", () => this.onHash())
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
    const { labels, indices } = this.manifest.digits
    labels.forEach((label, i) => {
      const option = document.createElement("label")
      option.innerHTML = `<input type="radio" name="live-digit" value="${i}"><canvas role="img"></canvas>`
      const canvas = find(option, "canvas", HTMLCanvasElement)
      canvas.setAttribute("aria-label", `a ${Number(label)}, test image ${Number(indices[i])}`)
      new Painter(canvas, SIZE, SIZE).paint(this.digits[i], "image", 0, 1)
      gallery.append(option)
    })
  }

  /** What only the whole live lab has. */
  buildPanels() {
    const { root } = this
    for (const panel of root.querySelectorAll("details")) {
      panel.addEventListener("toggle", () => this.onToggle(panel))
    }
    return {
      sort: new SortPanel(find(root, "[data-panel=sort]", HTMLElement)),
      map: new MapPanel(find(root, "[data-panel=map]", HTMLElement), (dy, dx) => this.change({ dy, dx })),
      challenge: new Challenge(find(root, ".live-challenge", HTMLFormElement), {
        next: () => this.ask(this.state.question + 1),
        leave: () => this.ask(0),
        reveal: () => this.reveal(true),
      }),
    }
  }

  /** Show what the address says; the compact one has none. */
  async restore() {
    const wanted = parse(this.compact ? "" : location.hash, this.digits.length)
    if (this.probe && format(wanted) === format(this.state)) return
    this.state = wanted
    await this.apply()
  }

  /** The reader has followed a link, to a state or to a section of the page, or has edited the address. */
  onHash() {
    if (location.hash && !location.hash.includes("=")) return
    this.restore().then(() => this.lead())
  }

  /** To what the address opens: the sort test, the shift map, or the digit. Once it is drawn, so that it stays there. */
  lead() {
    const { sort, map } = this.state
    const panel = sort !== null ? "sort" : map ? "map" : ""
    const place = panel ? find(this.root, `[data-panel=${panel}]`, HTMLElement) : this.root
    requestAnimationFrame(() => place.scrollIntoView())
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
    if (differs("digit", "ink", "mode", "map")) this.paintMap()
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
      const probe = this.probes.get(key) ?? (await this.load(state.network, state.trained))
      this.probes.set(key, probe)
      if (this.wanted === key) this.adopt(probe) // else the reader has chosen another one meanwhile
    } catch (error) {
      if (this.wanted === key) this.fail(error)
    } finally {
      if (this.wanted === key) this.root.setAttribute("aria-busy", "false")
    }
  }

  /**
   * @param {string} name
   * @param {boolean} trained
   */
  async load(name, trained) {
    const description = this.manifest.networks.find((network) => network.name === name && network.trained === trained)
    if (!description) throw new LoadError(`there is no ${trained ? "trained" : "untrained"} ${name} network`)
    const parameters = fromHalves(await loadFile(this.folder, description))
    return new Probe(new Network(description, parameters, this.manifest.normalisation))
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
    this.alert.hidden = true
    const shown = this.compact ? layers.filter(({ kind }) => kind !== "relu") : layers
    this.rows = shown.map(
      (layer) => new LayerRow(layer, (channel) => this.change({ channels: { ...this.state.channels, [layer.name]: channel } })),
    )
    find(root, ".live-layers", HTMLElement).replaceChildren(...this.rows.map(({ element }) => element))
    const channels = layers.map(({ name, shape, stride }) => {
      return [name, stride === null ? 0 : Math.min(state.channels[name] ?? 0, shape[0] - 1)]
    })
    state.channels = Object.fromEntries(channels)
    if (panels) {
      const maps = layers.filter(({ stride }) => stride !== null).map(({ name }) => name)
      find(root, "[name=live-sort]", HTMLSelectElement).replaceChildren(...maps.map((name) => new Option(name)))
      if (state.sort !== null && !maps.includes(state.sort)) state.sort = maps[0]
      write(find(root, ".live-facts", HTMLElement), factsInWords(probe.network.description, this.manifest))
      // here, and not in every frame: one might come between the reader's click and the panel's event
      find(root, "[data-panel=sort]", HTMLDetailsElement).open = state.sort !== null
      find(root, "[data-panel=map]", HTMLDetailsElement).open = state.map
      if (state.question) panels.challenge.ask(state, probe.network, this.asked)
    }
    this.takeImage()
    this.reveal(!state.question)
  }

  /** Run the network on the chosen digit, and on another one. */
  takeImage() {
    const { ink, digit } = this.state
    const count = this.digits.length
    this.image.data.set(ink ?? this.digits[digit])
    this.unrelated.data.set(this.digits[(digit + Math.floor(count / 2)) % count]) // another class: they lie in its order
    this.probe?.take(this.image, this.unrelated)
  }

  /** Begin the shift map, where it is open. */
  paintMap() {
    const { state, probe, panels } = this
    if (!panels) return
    if (!state.map || !this.revealed || this.pad.drawing || !probe) {
      panels.map.clear()
      return
    }
    const own = argmax(probe.first[probe.network.head].data)
    const target = state.ink ? own : this.manifest.digits.labels[state.digit]
    const right = state.ink ? `${own}, as without a shift,` : `${target}, which is right,`
    panels.map.start(probe.network, this.image, state.mode, target, right)
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
    this.pad.show(probe ? probe.moved.data : this.image.data, dy, dx)
    if (probe && this.revealed) {
      for (const row of this.rows) {
        const { name } = row.layer
        const finding = this.findings.find(({ layer }) => layer.name === name)
        if (finding) row.show(finding, probe.second[name], state.channels[name], dy, dx)
      }
      this.showProbabilities(probe)
      const sorted = this.findings.find(({ layer }) => layer.name === state.sort)
      if (sorted) panels?.sort.show(sorted, probe, state)
      panels?.map.mark(dy, dx)
    }
    clearTimeout(this.rest)
    this.rest = setTimeout(() => {
      this.rest = 0
      this.settle()
    }, PAUSE)
  }

  /** @param {Probe} probe */
  showProbabilities(probe) {
    const { dy, dx } = this.state
    const says = [probe.first, probe.second].map((outputs, i) => {
      const shares = softmax(outputs[probe.network.head], this.probabilities[i])
      const best = argmax(shares)
      shares.forEach((share, k) => {
        const cell = this.cells[10 * i + k]
        cell.style.setProperty("--share", share.toFixed(3))
        cell.toggleAttribute("data-best", k === best)
        write(find(cell, "b", HTMLElement), String(Math.round(100 * share)))
      })
      return { class: best, probability: shares[best] }
    })
    write(this.summary, summary(this.findings, dy, dx, says[0], says[1]))
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
    const link = root.querySelector("[data-live-link]")
    if (link instanceof HTMLAnchorElement) link.hash = format(state)
    if (!this.panels) return
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
    if (this.compact) return
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
      next: () => this.pick((this.state.digit + 5) % this.digits.length),
      clear: () => this.change({ ink: new Float32Array(SIZE * SIZE) }),
      link: () => this.copyLink(),
      ask: () => this.ask(1 + Math.floor(9998 * Math.random())),
      reset: () => this.reset(),
    })
    if (target instanceof HTMLElement && target.dataset.do) actions[target.dataset.do]?.()
  }

  /** As at first; the compact one keeps its digit. */
  reset() {
    if (this.compact) {
      this.change({ dy: 0, dx: 0 })
      return
    }
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
    if (this.compact) return
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
    if (panel.dataset.panel === "map" && panel.open !== state.map) this.change({ map: panel.open })
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
    if (this.panels) {
      for (const answer of this.root.querySelectorAll(".live-revealed, .live-probabilities")) {
        answer.toggleAttribute("hidden", !revealed)
      }
      if (!this.state.question) find(this.root, ".live-challenge", HTMLElement).hidden = true
      for (const setting of this.root.querySelectorAll(".live-setting, .live-sliders input")) {
        setting.toggleAttribute("disabled", !revealed)
      }
    }
    if (!revealed) write(this.summary, "Predict first: which layers stay exact?")
    this.paintMap()
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
