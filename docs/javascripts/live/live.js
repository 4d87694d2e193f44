// <live-lab>: a trained network in the page. Drag the digit, and see the output of every layer.
//
// Attributes: `src`, the folder that `lab export` has written; `compact`, the given network only, loaded when the reader
// comes near; `page`, the address of the whole live lab, for the compact one.

import { Explorer } from "./explorer.js"
import { loadFile, loadManifest, reason } from "./loading.js"
import { find } from "./view.js"

class LiveLab extends HTMLElement {
  connectedCallback() {
    if (this.explorer || this.watch) return
    if (!this.hasAttribute("compact")) {
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
    const folder = new URL(this.getAttribute("src") ?? "assets/live/", document.baseURI)
    try {
      const manifest = await loadManifest(folder)
      const digits = await loadFile(folder, manifest.digits)
      this.explorer = new Explorer(this, folder, manifest, digits)
    } catch (error) {
      this.innerHTML = `<p class="live-error" role="alert"></p><p><button type="button">Try again</button></p>`
      find(this, "p", HTMLElement).textContent =
        `The live network is not there: ${reason(error)}. The rest of the page works without it.`
      find(this, "button", HTMLElement).onclick = () => this.start()
      this.setAttribute("aria-busy", "false")
      return
    }
    await this.explorer.restore()
    this.dataset.ready = ""
    const { sort, map } = this.explorer.state
    if ((sort !== null || map) && !scrollY) this.explorer.lead() // unless the reader has gone on by now
  }
}

if (!customElements.get("live-lab")) customElements.define("live-lab", LiveLab)
