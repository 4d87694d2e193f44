// Both networks side by side: error ÷ control of every layer at three shifts, so that the zigzag is seen at once.

import { errorInWords, share, verdict } from "./view.js"

/** @typedef {import("./measuring.js").Probe} Probe */
/** @typedef {import("./shifting.js").Mode} Mode */

const STEPS = [1, 2, 4] // pixels to the right

/**
 * A table of one network.
 * @param {Probe} probe which has taken an image
 * @param {string} title
 * @param {Mode} mode
 */
export function compareMarkup(probe, title, mode) {
  const names = probe.network.layers.map(({ name }) => `<th scope="col">${name.replace(/\W/g, "")}</th>`)
  const rows = STEPS.map((dx) => {
    const cells = probe.measure(0, dx, mode).map((finding) => {
      const { exact } = verdict(finding, 0, dx)
      const ratio = share(finding)
      const height = Number.isNaN(ratio) ? 0 : Math.min(ratio, 1)
      const sign = exact === null ? "–" : exact ? "✓" : "✗"
      return `<td data-exact="${exact}" style="--share: ${height.toFixed(2)}"><i></i>${sign} ${exact === null ? "" : errorInWords(ratio)}</td>`
    })
    return `<tr><th scope="row">${dx} px</th>${cells.join("")}</tr>`
  })
  return `<table><caption>${title}</caption><thead><tr><th scope="col">moved</th>${names.join("")}</tr></thead><tbody>${rows.join("")}</tbody></table>`
}
