// <net-lab>: build a network of blocks, drag the digit, and see of each block what theory promises and what happens.
//
// Attribute: `src`, the folder that `lab export` has written; it has the digits, and the trained weights.

import { loadFile, loadManifest, reason } from "../live/loading.js"
import { find } from "../live/view.js"
import { Builder } from "./builder.js"

class NetLab extends HTMLElement {
  connectedCallback() {
    if (!this.builder) this.start()
  }

  async start() {
    this.setAttribute("aria-busy", "true")
    const folder = new URL(this.getAttribute("src") ?? "assets/live/", document.baseURI)
    try {
      const manifest = await loadManifest(folder)
      const digits = await loadFile(folder, manifest.digits)
      this.builder = new Builder(this, folder, manifest, digits)
      await this.builder.restore()
      this.dataset.ready = ""
    } catch (error) {
      this.innerHTML = `<p class="net-error" role="alert"></p><p><button type="button">Try again</button></p>`
      find(this, "p", HTMLElement).textContent = `The playground is not there: ${reason(error)}. The rest of the page works without it.`
      find(this, "button", HTMLElement).onclick = () => this.start()
    }
    this.setAttribute("aria-busy", "false")
  }
}

if (!customElements.get("net-lab")) customElements.define("net-lab", NetLab)
