// <live-lab>: a trained network in the page. Drag the digit, and see the output of every layer.
//
// Attributes: `src`, the folder that `lab export` has written; `compact`, home's first screen, which has two layers of the
// given network; `page`, the address of the whole live lab, for the compact one; `preset`, a small lab of mini.js. The
// last two are loaded when the reader comes near.

import { Explorer } from "./explorer.js"
import { Hero } from "./hero.js"
import { reason } from "./loading.js"
import { Mini } from "./mini.js"
import { Source } from "./sources.js"
import { find } from "./view.js"

class LiveLab extends HTMLElement {
  connectedCallback() {
    if (this.explorer || this.small || this.watch) return
    if (!this.hasAttribute("compact") && !this.hasAttribute("preset")) {
      this.start()
      return
    }
    this.watch = new IntersectionObserver((entries, watch) => {
      if (!entries.some(({ isIntersecting }) => isIntersecting)) return
      watch.disconnect()
      this.start()
    })
    this.watch.observe(this)
  }

  /** Load what every network needs, and show what the address says. */
  async start() {
    this.setAttribute("aria-busy", "true") // until a network is there, or the reason why not
    try {
      const source = await Source.open(new URL(this.getAttribute("src") ?? "assets/live/", document.baseURI))
      if (this.hasAttribute("compact")) this.small = this.hero = new Hero(this, source)
      else if (this.hasAttribute("preset")) this.small = this.mini = new Mini(this, source)
      if (this.small) await this.small.start()
      else this.explorer = new Explorer(this, source)
    } catch (error) {
      this.fail(error)
      return
    }
    await this.explorer?.restore()
    this.setAttribute("aria-busy", "false")
    this.dataset.ready = ""
    const { sort, map, compare } = this.explorer?.state ?? {}
    if ((sort || map || compare) && !scrollY) this.explorer?.lead() // unless the reader has gone on by now
  }

  /** @param {unknown} error */
  fail(error) {
    this.innerHTML = `<p class="live-error" role="alert"></p><p><button type="button">Try again</button></p>`
    find(this, "p", HTMLElement).textContent =
      `The live network is not there: ${reason(error)}. The rest of the page works without it.`
    find(this, "button", HTMLElement).onclick = () => this.start()
    this.setAttribute("aria-busy", "false")
  }
}

if (!customElements.get("live-lab")) customElements.define("live-lab", LiveLab)
