// The row of blocks: a card each, with a picture of its map, its shape, and whether it is exact.

import { Painter } from "../live/painting.js"
import { find, write } from "../live/view.js"
import { KINDS } from "./blocks.js"
import { blockInWords, cardMarkup, seenInWords, shapeInWords, share } from "./markup.js"

/** @typedef {import("./chain.js").Chain} Chain */
/** @typedef {import("./verdicts.js").Finding} Finding */
/** @typedef {import("./verdicts.js").Probe} Probe */

const SIGNS = { true: "✓", false: "✗", null: "·" }

/** The cards, which are kept from one network to the next. */
export class Row {
  /**
   * @param {HTMLElement} list
   * @param {(at: number) => void} choose is told which block the reader wants to look at, from 0
   */
  constructor(list, choose) {
    this.list = list
    /** @type {{ item: HTMLLIElement, button: HTMLElement, painter: Painter | null, parts: Record<string, HTMLElement> }[]} */
    this.cards = []
    list.addEventListener("click", ({ target }) => {
      const button = target instanceof Element ? target.closest("[data-block]") : null
      if (button instanceof HTMLElement) choose(Number(button.dataset.block))
    })
    list.addEventListener("keydown", (event) => this.onKey(event))
  }

  /**
   * Arrow keys go from card to card.
   * @param {KeyboardEvent} event
   */
  onKey(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    const at = this.cards.findIndex(({ button }) => button === document.activeElement)
    if (!step || at < 0 || event.ctrlKey || event.metaKey || event.altKey) return
    event.preventDefault()
    this.cards[Math.min(Math.max(at + step, 0), this.cards.length - 1)].button.focus()
  }

  /** @param {number} count */
  fit(count) {
    while (this.cards.length > count) this.cards.pop()?.item.remove()
    while (this.cards.length < count) {
      const item = document.createElement("li")
      item.innerHTML = cardMarkup(this.cards.length + 1)
      this.list.append(item)
      const parts = Object.fromEntries(["kind", "size", "sign", "heard"].map((name) => [name, find(item, `.net-${name}`, HTMLElement)]))
      this.cards.push({ item, button: find(item, "button", HTMLElement), painter: null, parts })
    }
  }

  /**
   * Show the blocks of a network.
   * @param {Chain} chain
   * @param {readonly string[] | null} layers what they are called in a reader's own network
   */
  take({ blocks, shapes }, layers) {
    this.fit(blocks.length)
    this.cards.forEach((card, at) => {
      const shape = shapes[at + 1]
      const [height, width] = shape.length === 3 ? shape.slice(1) : [1, shape[0]]
      const canvas = find(card.item, "canvas", HTMLCanvasElement)
      const same = card.painter && canvas.height === height && canvas.width === width
      if (!same) card.painter = new Painter(canvas, height, width)
      card.item.classList.toggle("net-flat", shape.length === 1)
      const detail = layers ? layers[at] : blockInWords(blocks[at])
      write(card.parts.kind, KINDS[blocks[at].kind].title)
      ;[detail, shapeInWords(shape)].forEach((text, i) => write(/** @type {HTMLElement} */ (card.parts.size.children[i]), text))
    })
  }

  /**
   * @param {Probe} probe
   * @param {readonly Finding[]} findings
   * @param {number} chosen
   * @param {number} dy
   * @param {number} dx
   */
  show(probe, findings, chosen, dy, dx) {
    this.cards.forEach(({ button, painter, parts }, at) => {
      const { data, shape } = probe.second.outputs[at + 1]
      const size = shape.length === 3 ? shape[1] * shape[2] : shape[0]
      let [low, high] = [Infinity, -Infinity]
      for (let i = 0; i < size; i++) {
        if (data[i] < low) low = data[i]
        if (data[i] > high) high = data[i]
      }
      painter?.paint(data, "feature", low, high)
      const { exact, word } = seenInWords(findings[at], dy, dx)
      write(parts.sign, SIGNS[/** @type {"true" | "false" | "null"} */ (String(exact))])
      write(parts.heard, word)
      if (button.dataset.exact !== String(exact)) button.dataset.exact = String(exact)
      if (button.getAttribute("aria-pressed") !== String(at === chosen)) button.setAttribute("aria-pressed", String(at === chosen))
      button.style.setProperty("--share", share(findings[at]).toFixed(3))
    })
  }
}
