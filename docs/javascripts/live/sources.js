// What `lab export` has written, as the parts of the page need it: digits, and networks that are ready to be measured.

import { SIZE } from "./ink.js"
import { LoadError, loadFile, loadManifest } from "./loading.js"
import { Probe } from "./measuring.js"
import { Network, fromHalves } from "./network.js"

/** @typedef {import("./loading.js").Manifest} Manifest */

/** One folder of networks; each is loaded once, and not before it is asked for. */
export class Source {
  /**
   * @param {URL} folder
   * @param {Manifest} manifest
   * @param {Uint8Array} pixels of all digits
   */
  constructor(folder, manifest, pixels) {
    this.folder = folder
    this.manifest = manifest
    this.digits = manifest.digits.labels.map((_, i) =>
      Float32Array.from(pixels.subarray(i * SIZE * SIZE, (i + 1) * SIZE * SIZE), (byte) => byte / 255),
    )
    /** @type {Map<string, Network>} */
    this.networks = new Map()
  }

  /** @param {URL} folder */
  static async open(folder) {
    const manifest = await loadManifest(folder)
    return new Source(folder, manifest, await loadFile(folder, manifest.digits))
  }

  /**
   * @param {string} name
   * @param {boolean} trained
   * @returns {Promise<Probe>} one of its own for each who asks
   */
  async probe(name, trained) {
    const key = `${name}-${trained}`
    const network = this.networks.get(key) ?? (await this.load(name, trained))
    this.networks.set(key, network)
    return new Probe(network)
  }

  /**
   * @param {string} name
   * @param {boolean} trained
   */
  async load(name, trained) {
    const description = this.manifest.networks.find((network) => network.name === name && network.trained === trained)
    if (!description) throw new LoadError(`there is no ${trained ? "trained" : "untrained"} ${name} network`)
    const parameters = fromHalves(await loadFile(this.folder, description))
    return new Network(description, parameters, this.manifest.normalisation)
  }

  /**
   * A digit of another class: they lie in its order.
   * @param {number} digit
   */
  unrelated(digit) {
    const count = this.digits.length
    return this.digits[(digit + Math.floor(count / 2)) % count]
  }
}
