// The words and the markup of the live network. Nothing here comes from the address or from a file unchecked.

import { isExact, theory } from "./measuring.js"
import { SIZE } from "./ink.js"
import { RADIUS } from "./shiftmap.js"

/** @typedef {import("./measuring.js").Finding} Finding */
/** @typedef {import("./network.js").Layer} Layer */

/**
 * An element below another one; there must be one.
 * @template {Element} T
 * @param {ParentNode} root
 * @param {string} selector
 * @param {new () => T} type
 * @returns {T}
 */
export function find(root, selector, type) {
  const found = root.querySelector(selector)
  if (!(found instanceof type)) throw new Error(`no ${type.name} at ${selector}`)
  return found
}

/**
 * @param {number} dy
 * @param {number} dx
 */
export function shiftInWords(dy, dx) {
  const parts = [
    ...(dy ? [`${Math.abs(dy)} px ${dy > 0 ? "down" : "up"}`] : []),
    ...(dx ? [`${Math.abs(dx)} px ${dx > 0 ? "right" : "left"}`] : []),
  ]
  return parts.join(" and ") || "not at all"
}

/** @param {number} error */
export function errorInWords(error) {
  if (Number.isNaN(error)) return "nothing to compare"
  if (error === Infinity) return "∞"
  if (error === 0) return "0"
  return error < 0.01 ? error.toExponential(0) : error.toFixed(2)
}

/** @param {Layer} layer */
export function layerInWords({ kind, shape, stride, weight, kernel_size: size }) {
  const maps = shape.length === 3 ? `${shape[0]} map${shape[0] > 1 ? "s" : ""} of ${shape[1]} × ${shape[2]}` : ""
  const steps = stride && stride > 1 ? `, stride ${stride} px` : ""
  if (kind === "conv2d") return `convolution ${weight?.shape.slice(2).join(" × ")}: ${maps}${steps}`
  if (kind === "maxPool2d") return `max pooling ${size} × ${size}: ${maps}${steps}`
  if (kind === "linear") return `fully connected: ${shape[0]} values, no positions`
  return `ReLU: ${maps || `${shape[0]} values`}`
}

/**
 * Theory and observation of a layer, in a few words.
 * @param {Finding} finding
 * @param {number} dy
 * @param {number} dx
 * @returns {{ exact: boolean | null, seen: string, told: string, why: string }} null where nothing can be seen
 */
export function verdict({ layer, error, control, same }, dy, dx) {
  const { exact, why } = theory(layer, dy, dx)
  const word = layer.stride === null ? "invariant" : "exact"
  const told = exact ? word : "not guaranteed"
  if (!dy && !dx) return { exact: null, seen: "nothing has moved", told: "", why }
  if (same) return { exact: null, seen: "nothing to see", told, why }
  if (Number.isNaN(error)) return { exact: null, seen: "nothing to compare", told, why }
  if (!(control > 0)) return { exact: null, seen: "says nothing: its control is 0 too", told, why }
  const seen = isExact(error)
  return { exact: seen, seen: seen ? word : layer.stride === null ? "not invariant" : "broken", told, why }
}

/**
 * What a reader should know in one breath.
 * @param {readonly Finding[]} findings
 * @param {number} dy
 * @param {number} dx
 * @param {{ class: number, probability: number }} before
 * @param {{ class: number, probability: number }} after
 */
export function summary(findings, dy, dx, before, after) {
  const says = `${after.class} (${percent(after.probability)})`
  if (!dy && !dx) return `The network says ${says}. Drag the digit, or press an arrow key.`
  if (findings.some(({ same }) => same)) {
    return `Moved ${shiftInWords(dy, dx)}. There is nothing to see: moved, this image is the same as before. The network says ${says}.`
  }
  const maps = findings.filter(({ layer, error }) => layer.stride !== null && !Number.isNaN(error))
  const [kept, all] = [maps.filter(({ error }) => isExact(error)).length, maps.length]
  const moved = kept === all ? "Every map moved along exactly" : `${kept} of ${all} maps moved along exactly`
  const mind =
    before.class === after.class
      ? `the class is still ${says}, from ${percent(before.probability)}`
      : `the class changed from ${before.class} (${percent(before.probability)}) to ${says}`
  return `Moved ${shiftInWords(dy, dx)}. ${moved}, away from the border; ${mind}.`
}

/**
 * What a reader should know of a network.
 * @param {import("./network.js").Description} description
 * @param {import("./loading.js").Manifest} manifest
 */
export function factsInWords({ trained, accuracy, parameters, layers }, { data, seed }) {
  const chain = layers.map(({ name }) => name).join(" → ")
  const taught = trained ? `trained on ${data.name}` : "untrained"
  const right = `It is right about ${(100 * accuracy).toFixed(1)} % of ${data.test_images.toLocaleString("en")} test digits as they stand`
  const fair = trained ? ", none of which it was trained on" : ""
  return `${chain}. ${parameters.toLocaleString("en")} parameters, ${taught}, seed ${seed}. ${right}${fair}.`
}

/** @param {number} share */
export function percent(share) {
  return `${Math.round(100 * share)} %`
}

/**
 * Radio buttons.
 * @param {string} name
 * @param {string} legend
 * @param {readonly (readonly [string, string])[]} options value and label
 */
function choice(name, legend, options) {
  const radios = options.map(
    ([value, label]) => `<label><input type="radio" name="live-${name}" value="${value}"><span>${label}</span></label>`,
  )
  return `<fieldset class="live-choice live-setting"><legend>${legend}</legend>${radios.join("")}</fieldset>`
}

/**
 * @param {string} name
 * @param {string} label
 */
function slider(name, label) {
  const range = `<input type="range" name="live-${name}" min="${-RADIUS}" max="${RADIUS}" value="0">`
  return `<label class="live-slider"><span>${label}</span>${range}<output data-of="${name}">0</output></label>`
}

const STAGE = `
  <div class="live-stage">
    <div class="live-pad">
      <canvas width="${SIZE}" height="${SIZE}" tabindex="0" role="application" aria-label="T x: the digit. Drag it, or move it with the arrow keys"></canvas>
      <i class="live-frame"></i><i class="live-cursor" hidden></i><span class="live-hint" aria-hidden="true">drag me</span>
    </div>
    <p class="live-summary"></p>
  </div>`

const HEAD = `
  <div class="live-probabilities" tabindex="0" role="group" aria-label="Probabilities of the classes"><table class="live-table">
    <caption>What it says, in per cent: <span class="live-key-first">of x</span> <span class="live-key-second">of T x</span></caption>
    <thead><tr><th scope="col"><span class="live-unseen">image</span></th>${[..."0123456789"].map((d) => `<th scope="col">${d}</th>`).join("")}</tr></thead>
    <tbody><tr><th scope="row">x</th>${"<td><b></b><i></i></td>".repeat(10)}</tr><tr><th scope="row">T x</th>${"<td><b></b><i></i></td>".repeat(10)}</tr></tbody>
  </table></div>`

const ALERT = `<p class="live-error" role="alert" hidden></p>`
const STATUS = `<p class="live-unseen live-status" role="status"></p>`

/** @param {string} page of the whole live lab */
export function compactMarkup(page) {
  return `
  <div class="live-body live-compact">
    <div class="live-side">${STAGE}${HEAD}
      <p class="live-buttons"><button type="button" data-do="next">Another digit</button>
        <button type="button" data-do="reset">Put it back</button></p>
      <p><a data-live-link href="${page}">All layers, both networks, your own digit: the live lab</a></p>
    </div>
    <div class="live-outputs"><div class="live-layers"></div></div>
  </div>${ALERT}${STATUS}`
}

export const MARKUP = `
  <div class="live-bar">
    ${choice("network", "Network", [["given", "given"], ["pooled", "pooled"]])}
    ${choice("weights", "Weights", [["trained", "trained"], ["untrained", "untrained"]])}
    ${choice("mode", "What enters the frame", [["background", "background"], ["wrap", "what left (wrap)"]])}
    <p class="live-buttons"><button type="button" data-do="reset">Reset</button>
      <button type="button" data-do="link">Copy link</button>
      <button type="button" data-do="ask">Predict first</button></p>
  </div>${ALERT}
  <p class="live-facts"></p>
  <div class="live-body">
    <div class="live-side">${STAGE}${HEAD}
      <div class="live-sliders">${slider("dy", "down")}${slider("dx", "right")}</div>
      ${choice("tool", "The pointer", [["move", "moves the digit"], ["draw", "draws your own"]])}
      <p class="live-help" id="live-draw-help" hidden>Draw with the pointer; or move the cell with the arrow keys and press
        the space bar for ink. <button type="button" data-do="clear">Clear</button></p>
      <fieldset class="live-gallery live-setting"><legend>Test digits</legend></fieldset>
    </div>
    <div class="live-outputs">
      <form class="live-challenge" hidden aria-label="Predict first"></form>
      <div class="live-revealed">
        <p class="live-legend">In each row, from left: <b>f(T x)</b>, what the layer says of the moved digit;
          <b>T f(x)</b>, what it said before, moved by hand; their <b>difference</b>, on the same scale, blank where they
          agree. The <span class="live-outline">outline</span> is the interior: there both saw the same pixels.</p>
        <div class="live-layers"></div>
        <details class="live-panel" data-panel="sort"><summary>The sort test, and how to cheat it</summary>
          <p>Sorting forgets where a value stood. An equivariant layer only moves its values, so sorted they agree,
            as long as none enters or leaves. Is it enough to test that? Turn or scramble what the layer says, in the same
            way each time.</p>
          <div class="live-bar">
            <label class="live-select">Layer <select name="live-sort"></select></label>
            ${choice("trap", "Then", [["none", "leave it"], ["flip", "flip it, both ways"], ["scramble", "scramble it"]])}
          </div>
          <div class="live-sort"><canvas width="640" height="300" role="img" aria-label="Sorted activations of x and of T x, one over the other"></canvas>
            <div class="live-maps" data-maps="trap"></div></div>
          <p class="live-axes">Across: the values of the channel, from the smallest to the largest. Up: the value.
            <span class="live-key-first">f(x)</span>, <span class="live-key-second">f(T x)</span>.</p>
          <p class="live-sorted"></p>
        </details>
        <details class="live-panel" data-panel="map"><summary>Shift map: what it says at all 841 shifts</summary>
          <div class="live-map-pad"><canvas role="img"></canvas><i class="live-here"></i></div>
          <p class="live-map-text"></p>
        </details>
      </div>
    </div>
  </div>${STATUS}`

/**
 * The row of a layer: three maps and what is said of them.
 * @param {Layer} layer
 */
export function layerMarkup(layer) {
  const { name, shape, stride } = layer
  const channels = stride !== null && shape[0] > 1
  const captions = stride === null ? ["f(T x)", "f(x)", "difference"] : ["f(T x)", "T f(x)", "difference"]
  const range = `<input type="range" name="live-channel" min="0" max="${shape[0] - 1}" value="0" aria-label="Channel of ${name}">`
  return `
    <div class="live-layer" role="group" aria-label="${name}" data-layer="${name}">
      <p class="live-name"><strong>${name}</strong> <span>${layerInWords(layer)}</span></p>
      <div class="live-maps">${captions.map((caption) => mapMarkup(name, caption)).join("")}</div>
      <div class="live-said">
        <p class="live-verdict"><b></b> <span></span></p>
        <dl>${(stride === null
          ? [["error", "invariance error"], ["control", "control: another digit"]]
          : [["error", "error inside the outline"], ["full", "on the whole frame"], ["control", "control: one step wrong"]]
        )
          .map(([key, label]) => `<div><dt>${label}</dt><dd data-of="${key}"></dd></div>`)
          .join("")}</dl>
        ${channels ? `<label class="live-channel">channel ${range}<output>1 of ${shape[0]}</output></label>` : ""}
      </div>
    </div>`
}

/**
 * @param {string} name of the layer
 * @param {string} caption
 */
export function mapMarkup(name, caption) {
  return `<div class="live-figure"><div class="live-map"><canvas role="img" aria-label="${name}: ${caption}"></canvas><i class="live-interior" hidden></i></div><span>${caption}</span></div>`
}
