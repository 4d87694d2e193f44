// What is said of the block that is looked at, and the fields that change it.

import { find, write } from "../live/view.js"
import { KINDS } from "./blocks.js"
import { factsOf, parametersMarkup, seenInWords, shapeInWords, theoryInWords } from "./markup.js"

/** @typedef {import("./verdicts.js").Finding} Finding */
/** @typedef {import("./verdicts.js").Probe} Probe */

export class Side {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root
    this.refused = find(root, ".net-refused", HTMLElement)
    this.verdicts = ["theory", "seen"].map((name) => find(root, `.net-${name}`, HTMLElement))
  }

  /**
   * Show a block; what was refused before is over.
   * @param {Probe} probe
   * @param {number} at
   */
  take({ chain, geometry }, at) {
    this.refuse("")
    const { blocks, names, shapes } = chain
    const { root } = this
    write(find(root, ".net-title strong", HTMLElement), `${at + 1}. ${KINDS[blocks[at].kind].title}`)
    write(find(root, ".net-title span", HTMLElement), `${shapeInWords(shapes[at])} → ${shapeInWords(shapes[at + 1])}`)
    const sources = ["x, the image", ...names.slice(0, Math.max(at - 1, 0)).map((name, i) => `${i + 1}: ${name}`)]
    find(root, ".net-parameters", HTMLElement).innerHTML = parametersMarkup(blocks[at], sources)
    const facts = factsOf(geometry[at]).map(([term, text]) => `<div><dt>${term}</dt><dd>${text}</dd></div>`)
    find(root, ".net-facts", HTMLElement).innerHTML = facts.join("")
    const can = { earlier: at > 0, later: at < blocks.length - 1, remove: blocks.length > 1 }
    for (const [action, one] of Object.entries(can)) find(root, `[data-do=${action}]`, HTMLButtonElement).disabled = !one
  }

  /**
   * Say what cannot be, beside where it was chosen.
   * @param {string} why nothing, if all is well
   */
  refuse(why) {
    this.refused.hidden = !why
    write(this.refused, why ? `Not possible. ${why.charAt(0).toUpperCase()}${why.slice(1)}` : "")
  }

  /**
   * @param {Finding} finding
   * @param {number} dy
   * @param {number} dx
   */
  show(finding, dy, dx) {
    const theory = theoryInWords(finding, dy, dx)
    const seen = seenInWords(finding, dy, dx)
    const said = [
      { exact: theory.exact, word: theory.word, why: theory.why },
      { exact: String(seen.exact), word: seen.word, why: seen.why },
    ]
    said.forEach(({ exact, word, why }, i) => {
      const line = this.verdicts[i]
      if (line.dataset.exact !== exact) line.dataset.exact = exact
      write(find(line, "b", HTMLElement), word)
      write(find(line, "span", HTMLElement), why)
    })
  }
}
