// The layers of a network in a row, each with what was observed: does its square commute, and error ÷ control.

import { errorInWords, find, share, verdict, write } from "./view.js"

/** @typedef {import("./measuring.js").Finding} Finding */
/** @typedef {import("./network.js").Layer} Layer */

/** A button for each layer; the pressed one's square is shown. */
export class Strip {
  /**
   * @param {HTMLElement} root
   * @param {(layer: string) => void} [choose] without it, the layers are no buttons
   */
  constructor(root, choose) {
    this.root = root
    this.still = !choose
    /** @type {{ name: string, button: HTMLElement, sign: HTMLElement, number: HTMLElement }[]} */
    this.parts = []
    root.addEventListener("click", ({ target }) => {
      const button = target instanceof Element ? target.closest("button") : null
      if (button?.dataset.layer) choose?.(button.dataset.layer)
    })
  }

  /** @param {readonly Layer[]} layers */
  take(layers) {
    this.root.replaceChildren()
    this.parts = layers.map(({ name }) => {
      const button = document.createElement(this.still ? "div" : "button")
      if (this.still) button.setAttribute("role", "img")
      else button.setAttribute("type", "button")
      button.dataset.layer = name
      button.innerHTML = "<b></b> <i></i> <span></span>"
      write(find(button, "b", HTMLElement), name)
      this.root.append(button)
      return { name, button, sign: find(button, "i", HTMLElement), number: find(button, "span", HTMLElement) }
    })
  }

  /**
   * @param {readonly Finding[]} findings
   * @param {string} chosen
   * @param {number} dy
   * @param {number} dx
   */
  show(findings, chosen, dy, dx) {
    for (const { name, button, sign, number } of this.parts) {
      const finding = findings.find(({ layer }) => layer.name === name)
      if (!finding) continue
      const { exact, seen } = verdict(finding, dy, dx)
      const ratio = share(finding)
      const said = `${name}: ${seen}, error ÷ control ${errorInWords(ratio)}`
      if (button.getAttribute("aria-label") !== said) button.setAttribute("aria-label", said)
      button.dataset.exact = String(exact)
      if (!this.still) button.setAttribute("aria-pressed", String(name === chosen))
      button.style.setProperty("--share", Number.isNaN(ratio) ? "0" : Math.min(ratio, 1).toFixed(2))
      write(sign, exact === null ? "–" : exact ? "✓" : "✗")
      write(number, exact === null ? "" : errorInWords(ratio))
    }
  }
}
