// The state of the playground, and what follows from a change of it.

import { SIZE } from "../live/ink.js"
import { LoadError, loadFile, reason } from "../live/loading.js"
import { fromHalves } from "../live/network.js"
import { Pad } from "../live/pad.js"
import { shift } from "../live/shifting.js"
import { zeros } from "../live/layers.js"
import { find, write } from "../live/view.js"
import { REACH, firstChoice, formatAddress, parseAddress, whole } from "./address.js"
import { KINDS, RuleError, format, parse } from "./blocks.js"
import { Chain } from "./chain.js"
import { Corners } from "./corners.js"
import { FileError, readFile } from "./dropped.js"
import { inserted, moved, removed, withValue } from "./editing.js"
import { MARKUP, summary } from "./markup.js"
import { PRESETS, presetOf } from "./presets.js"
import { programOf } from "./pytorch.js"
import { Row } from "./row.js"
import { Side } from "./side.js"
import { Trial } from "./trial.js"
import { Probe } from "./verdicts.js"

/** @typedef {import("../live/loading.js").Manifest} Manifest */
/** @typedef {import("./address.js").Choice} Choice */
/** @typedef {import("./blocks.js").Block} Block */
/** @typedef {import("./dropped.js").Own} Own */

const PAUSE = 400 // milliseconds of rest before the address and a screen reader are told

/** One playground. A change asks for a frame, which shows it; a network that cannot be is refused, and nothing changes. */
export class Builder {
  /**
   * @param {HTMLElement} root `net-lab`, whose content is replaced
   * @param {URL} folder
   * @param {Manifest} manifest
   * @param {Uint8Array} digits
   */
  constructor(root, folder, manifest, digits) {
    this.root = root
    this.folder = folder
    this.manifest = manifest
    this.digits = manifest.digits.labels.map((_, i) =>
      Float32Array.from(digits.subarray(i * SIZE * SIZE, (i + 1) * SIZE * SIZE), (byte) => byte / 255),
    )
    this.choice = firstChoice()
    /** @type {Own | null} */
    this.own = null
    this.image = zeros([1, SIZE, SIZE])
    this.moved = zeros([1, SIZE, SIZE])
    this.frames = 0
    this.pending = 0
    /** @type {ReturnType<typeof setTimeout> | 0} */
    this.rest = 0
    root.innerHTML = MARKUP
    this.probe = new Probe(new Chain(parse(this.choice.net), 0))
    this.row = new Row(find(root, ".net-row", HTMLElement), (block) => this.look(block))
    this.corners = new Corners(find(root, ".net-square", HTMLElement), () => this.request())
    this.side = new Side(root)
    this.trial = new Trial(root, { build: (net) => this.edit(parse(net)), busy: () => this.pending !== 0 })
    this.pad = new Pad(this.corners.square.root, {
      move: (dy, dx) => this.moveTo(dy, dx),
      shift: () => [this.choice.dy, this.choice.dx],
      draw: () => {},
      rest: () => {},
    })
    this.listen()
  }

  listen() {
    const { root } = this
    root.addEventListener("click", (event) => this.onAction(event))
    root.addEventListener("change", (event) => this.onChange(event))
    root.addEventListener("dragover", (event) => {
      event.preventDefault()
      root.classList.add("net-over")
    })
    root.addEventListener("dragleave", (event) => {
      if (event.target === root || !(event.relatedTarget instanceof Node) || !root.contains(event.relatedTarget)) root.classList.remove("net-over")
    })
    root.addEventListener("drop", (event) => {
      event.preventDefault()
      root.classList.remove("net-over")
      const [file] = event.dataTransfer?.files ?? []
      if (file) this.open(file)
    })
    const program = find(root, ".net-program", HTMLDetailsElement)
    program.addEventListener("toggle", () => this.showProgram())
    addEventListener("hashchange", ({ newURL }) => {
      const { hash } = new URL(newURL) // the address may be written since
      if (!hash || hash.includes("=")) this.restore(hash)
    })
  }

  get blocks() {
    return this.probe.chain.blocks
  }

  /**
   * Show what an address says, or say why not, and keep what is there.
   * @param {string} hash
   */
  async restore(hash = location.hash) {
    const wanted = parseAddress(hash, this.digits.length)
    try {
      const blocks = parse(wanted.net)
      const chain = new Chain(blocks, wanted.seed) // refused before anything is loaded
      await this.adopt({ ...wanted, block: Math.min(wanted.block, blocks.length - 1) }, chain, null)
    } catch (error) {
      await this.adopt({ ...wanted, net: format(this.blocks), block: 0, trained: false }, this.probe.chain, this.own)
      this.complain(`The network in this address cannot be: ${this.blame(error)}`)
    }
    this.trial.take(this.choice.challenge)
  }

  /**
   * Take a network over.
   * @param {Choice} choice
   * @param {Chain} chain
   * @param {Own | null} own
   */
  async adopt(choice, chain, own) {
    const preset = presetOf(format(chain.blocks))
    const trained = choice.trained && !own ? (PRESETS[preset ?? ""]?.trained ?? "") : ""
    if (trained) chain.take(await this.trainedWeights(trained))
    this.choice = { ...choice, trained: Boolean(trained), net: format(chain.blocks) }
    this.own = own
    this.complain("")
    this.probe = new Probe(chain)
    this.row.take(chain, own?.layers ?? null)
    this.takeImage()
    this.look(Math.min(choice.block, chain.blocks.length - 1))
    this.showProgram()
  }

  /**
   * @param {string} name
   * @returns {Promise<Float32Array>}
   */
  async trainedWeights(name) {
    const description = this.manifest.networks.find((network) => network.name === name && network.trained)
    if (!description) throw new LoadError(`there is no trained ${name} network`)
    return fromHalves(await loadFile(this.folder, description))
  }

  /**
   * Exchange the row of blocks, if it can be.
   * @param {readonly Block[]} blocks
   * @param {Partial<Choice>} [more]
   * @returns {boolean} whether it can
   */
  edit(blocks, more = {}) {
    try {
      const chain = new Chain(blocks, more.seed ?? this.choice.seed)
      this.adopt({ ...this.choice, ...more }, chain, null).catch((error) => this.complain(`Those weights are not there: ${reason(error)}.`))
      return true
    } catch (error) {
      this.side.take(this.probe, this.choice.block) // the fields say what is
      this.side.refuse(this.blame(error))
      return false
    }
  }

  /**
   * Which rule was broken, and by which block if not by the one that is looked at.
   * @param {unknown} error
   */
  blame(error) {
    const text = reason(error)
    if (!(error instanceof RuleError) || error.at < 0) return `${text}.`
    return `block ${error.at + 1}: ${text}.`
  }

  /** @param {string} text nothing, if all is well again */
  complain(text) {
    const alert = find(this.root, ".net-complaint", HTMLElement)
    alert.hidden = !text
    write(alert, text)
  }

  /**
   * Look at a block.
   * @param {number} block
   */
  look(block) {
    this.choice.block = block
    this.corners.take(this.probe, block)
    this.side.take(this.probe, block)
    this.request()
  }

  /** Run the network on the digit, and on another one; and judge, if there is a challenge. */
  takeImage() {
    const { digit } = this.choice
    const { mean, std } = this.manifest.normalisation
    const scaled = (/** @type {number} */ i) => Float64Array.from(this.digits[i], (value) => (value - mean) / std)
    const other = (digit + Math.floor(this.digits.length / 2)) % this.digits.length
    this.image.data.set(this.digits[digit])
    const given = /** @type {const} */ ([scaled(digit), scaled(other), (0 - mean) / std])
    this.probe.take(...given)
    this.trial.start(this.probe.chain, given)
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
    const { dy, dx, wrap, block } = this.choice
    this.frames++
    this.findings = this.probe.measure(dy, dx, wrap)
    shift(this.image, dy, dx, wrap ? "wrap" : "background", 0, this.moved)
    this.row.show(this.probe, this.findings, block, dy, dx)
    this.corners.show(this.probe, this.findings[block], block, this.image, this.moved, this.choice)
    this.side.show(this.findings[block], dy, dx)
    this.showSettings()
    clearTimeout(this.rest)
    this.rest = setTimeout(() => {
      this.rest = 0
      this.settle()
    }, PAUSE)
  }

  showSettings() {
    const { choice, root, own } = this
    const preset = own ? null : presetOf(choice.net)
    const says = own ? `${own.name}, your own network: ${this.probe.chain.parameters.toLocaleString("en")} parameters.` : preset ? PRESETS[preset].says : "Your own network."
    write(find(root, ".net-says", HTMLElement), `${says} ${summary(this.findings ?? [], choice.dy, choice.dx)}`)
    const checked = { preset, enter: choice.wrap ? "wrap" : "background", challenge: String(choice.challenge) }
    for (const [name, value] of Object.entries(checked)) {
      for (const radio of root.querySelectorAll(`[name=net-${name}]`)) {
        if (radio instanceof HTMLInputElement && radio.checked !== (radio.value === value)) radio.checked = !radio.checked
      }
    }
    const weights = find(root, "[name=net-weights]", HTMLSelectElement)
    weights.value = choice.trained ? "trained" : "random"
    weights.disabled = !preset || !PRESETS[preset].trained
    const seed = find(root, "[name=net-seed]", HTMLInputElement)
    if (document.activeElement !== seed) seed.value = String(choice.seed)
    seed.disabled = choice.trained || own !== null
  }

  /** When the reader rests: write the address, and tell a screen reader. */
  settle() {
    const { choice, root } = this
    write(find(root, ".net-status", HTMLElement), summary(this.findings ?? [], choice.dy, choice.dx))
    const hash = formatAddress(choice, this.blocks)
    if (location.hash.slice(1) !== hash) history.replaceState(null, "", `#${hash}`)
  }

  /**
   * @param {number} dy
   * @param {number} dx
   */
  moveTo(dy, dx) {
    const [y, x] = [dy, dx].map((t) => Math.min(Math.max(t, -REACH), REACH) + 0)
    if (y === this.choice.dy && x === this.choice.dx) return
    Object.assign(this.choice, { dy: y, dx: x })
    this.request()
  }

  /** @param {Event} event */
  onChange({ target }) {
    if (!(target instanceof HTMLInputElement || target instanceof HTMLSelectElement)) return
    const { name, value } = target
    if (target.type === "file") {
      const [file] = /** @type {HTMLInputElement} */ (target).files ?? []
      target.value = ""
      if (file) this.open(file)
      return
    }
    if (target.closest(".net-parameters")) {
      this.set(name, value)
      return
    }
    const choices = /** @type {Record<string, () => void>} */ ({
      "net-preset": () => this.begin(value),
      "net-enter": () => this.enter(value === "wrap"),
      "net-weights": () => this.edit(this.blocks, { trained: value === "trained" }),
      "net-seed": () => this.edit(this.blocks, { seed: whole(value, 0, 9999, this.choice.seed) }),
      "net-challenge": () => this.challenge(Number(value)),
    })
    choices[name]?.()
  }

  /**
   * @param {string} name of a parameter of the block that is looked at
   * @param {string} value
   */
  set(name, value) {
    const { block } = this.choice
    const parameter = KINDS[this.blocks[block].kind].parameters.find((one) => one.name === name)
    this.edit(withValue(this.blocks, block, name, parameter?.words ? value : Number(value)))
    find(this.root, `.net-parameters [name=${name}]`, HTMLElement).focus()
  }

  /** @param {string} preset */
  begin(preset) {
    const { net, wrap } = PRESETS[preset]
    this.edit(parse(net), { wrap, block: 0, trained: false })
  }

  /** @param {boolean} wrap */
  enter(wrap) {
    this.choice.wrap = wrap
    this.showProgram()
    this.request()
  }

  /** @param {number} number of the challenge, from 1; 0 for none */
  challenge(number) {
    this.choice.challenge = number
    this.trial.take(number)
    if (number) this.trial.restart((wrap) => (this.choice.wrap = wrap))
    this.request()
  }

  /** @param {Event} event */
  onAction({ target }) {
    const action = target instanceof HTMLElement ? target.dataset.do : undefined
    const { block } = this.choice
    const actions = /** @type {Record<string, () => void>} */ ({
      add: () => this.add(),
      remove: () => this.edit(removed(this.blocks, block), { block: Math.max(block - 1, 0) }),
      earlier: () => this.swap(block, block - 1),
      later: () => this.swap(block, block + 1),
      digit: () => this.pick((this.choice.digit + 5) % this.digits.length),
      back: () => this.moveTo(0, 0),
      copy: () => this.copy("copy", this.program()),
      link: () => this.copyLink(),
      hint: () => this.trial.hint(),
      restart: () => this.trial.restart((wrap) => (this.choice.wrap = wrap)),
      solution: () => this.trial.solve(),
    })
    if (action) actions[action]?.()
  }

  add() {
    const { block } = this.choice
    const kind = /** @type {import("./blocks.js").Kind} */ (find(this.root, "[name=net-kind]", HTMLSelectElement).value)
    if (this.edit(inserted(this.blocks, block + 1, kind))) this.look(block + 1)
  }

  /**
   * @param {number} at
   * @param {number} to
   */
  swap(at, to) {
    if (to >= 0 && to < this.blocks.length) this.edit(moved(this.blocks, at, to), { block: to })
  }

  /** @param {number} digit */
  pick(digit) {
    this.choice.digit = digit
    this.takeImage()
    this.look(this.choice.block) // adaptive sampling chooses by the image
  }

  /**
   * A network of the reader's own; whatever is wrong with the file is said in one sentence.
   * @param {File} file
   */
  async open(file) {
    try {
      const own = await readFile(file)
      await this.adopt({ ...this.choice, block: 0, trained: false }, new Chain(own.blocks, own.weights), own)
    } catch (error) {
      this.complain(error instanceof FileError ? error.message : `The file cannot be read: ${reason(error)}.`)
    }
  }

  /** The network as a program. */
  program() {
    const { choice, own, probe } = this
    return programOf(probe.chain, choice.trained || own ? null : choice.seed, choice)
  }

  showProgram() {
    const details = find(this.root, ".net-program", HTMLDetailsElement)
    if (details.open) find(details, "code", HTMLElement).textContent = this.program()
  }

  copyLink() {
    this.settle()
    this.copy("link", location.href)
  }

  /**
   * @param {"copy" | "link"} action whose button says what came of it
   * @param {string} text
   */
  async copy(action, text) {
    const button = find(this.root, `[data-do=${action}]`, HTMLElement)
    const before = action === "copy" ? "Copy as PyTorch" : "Copy link"
    try {
      await navigator.clipboard.writeText(text)
      write(button, "Copied")
    } catch {
      write(button, action === "copy" ? "Copy it from below" : "Copy this page’s address")
      if (action === "copy") find(this.root, ".net-program", HTMLDetailsElement).open = true
    }
    write(find(this.root, ".net-status", HTMLElement), button.textContent ?? "")
    setTimeout(() => write(button, before), 3000)
  }
}

