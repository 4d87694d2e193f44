// The words and the markup of the live network. Nothing here comes from the address or from a file unchecked.

import { isExact, theory } from "./measuring.js"
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

/**
 * Where one number has to stand alone: an error in units of its control.
 * @param {Finding} finding
 * @returns {number} NaN where there is nothing to compare
 */
export function share({ error, control, same }) {
  return same || !(control > 0) ? NaN : error / control
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
  const told = exact ? "commutes" : "not guaranteed"
  if (!dy && !dx) return { exact: null, seen: "nothing has moved", told: "", why }
  if (same) return { exact: null, seen: "nothing to see", told, why }
  if (Number.isNaN(error)) return { exact: null, seen: "nothing to compare", told, why }
  if (!(control > 0)) return { exact: null, seen: "says nothing: its control is 0 too", told, why }
  return { exact: isExact(error), seen: isExact(error) ? "commutes" : "does not commute", told, why }
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
  if (!dy && !dx) return `Nothing has moved yet: drag T x, or press an arrow key. The network says ${says}.`
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
  return `Moved ${shiftInWords(dy, dx)}. ${moved}; ${mind}.`
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

/** What the reader sees a network called. */
export const NETWORKS = /** @type {const} */ ({ given: "the exercise's", pooled: "with pooling" })

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

const CLASSES = [..."0123456789"].map(
  (digit) => `<tr><th scope="row">${digit}</th><td><b></b><i></i></td><td><b></b><i></i></td></tr>`,
)
export const SAYS = `
  <table class="live-says"><caption>What the network says, in per cent</caption>
    <thead><tr><th scope="col">class</th><th scope="col"><span class="live-key-first">x</span></th><th scope="col"><span class="live-key-second">T x</span></th></tr></thead>
    <tbody>${CLASSES.join("")}</tbody></table>`

const ALERT = `<p class="live-error" role="alert" hidden></p>`
const STATUS = `<p class="live-unseen live-status" role="status"></p>`

const BAR = `
  <div class="live-bar">
    ${choice("network", "Network", [["given", NETWORKS.given], ["pooled", NETWORKS.pooled]])}
    ${choice("weights", "Weights", [["trained", "trained"], ["untrained", "untrained"]])}
    ${choice("mode", "At the edge", [["background", "background"], ["wrap", "wraps around"]])}
    ${choice("tool", "Pointer on T x", [["move", "drags"], ["draw", "draws"]])}
    <details class="live-digits"><summary>Digits</summary><fieldset class="live-gallery live-setting"><legend>Test digits</legend></fieldset></details>
    <p class="live-buttons"><button type="button" data-do="ask">Predict first</button>
      <button type="button" data-do="link">Copy link</button>
      <button type="button" data-do="reset">Reset</button></p>
  </div>`

const SIDE_COLUMN = `
  <div class="live-side">
    <form class="live-challenge" hidden aria-label="Predict first"></form>
    <div class="live-revealed live-layer" role="group" aria-label="The chosen layer">
      <p class="live-name"><strong></strong> <span></span></p>
      <p class="live-verdict"><b></b> <span></span></p>
      <dl><div><dt></dt><dd data-of="error"></dd></div><div><dt>error of the whole map</dt><dd data-of="full"></dd></div>
        <div><dt></dt><dd data-of="control"></dd></div></dl>
    </div>
    <p class="live-summary"></p>
    <p class="live-help" hidden>Draw with the pointer; or move the cell with the arrow keys and press the space bar for
      ink. <button type="button" data-do="clear">Clear</button></p>
    <div class="live-answers live-revealed">
      ${SAYS}
      <div class="live-joystick" data-panel="map">
        <p class="live-map-title">Shift map: drag to move the digit</p>
        <div class="live-map-pad"><canvas tabindex="0" role="application"></canvas><i class="live-here"></i></div>
        <p class="live-map-text"></p>
      </div>
    </div>
    <div class="live-sliders">${slider("dy", "down")}${slider("dx", "right")}</div>
  </div>`

/** The sort test's curves, maps and words. */
export const SORTED = `
  <div class="live-sort"><canvas width="640" height="300" role="img" aria-label="Sorted activations of x and of T x, one over the other"></canvas>
    <div class="live-maps" data-maps="trap"></div></div>
  <p class="live-axes">Across: the values of the channel, from the smallest to the largest. Up: the value.
    <span class="live-key-first">f(x)</span>, <span class="live-key-second">f(T x)</span>.</p>
  <p class="live-sorted"></p>`

const SORT = `
  <details class="live-panel" data-panel="sort"><summary>The sort test, and how to cheat it</summary>
    <p>Sorting forgets where a value stood. A map that only moves keeps its values, so sorted they agree, as long as none
      enters or leaves. Is it enough to test that? Turn or scramble the layer's output, in the same way each time.</p>
    <div class="live-bar">
      <label class="live-select">Layer <select name="live-sort"></select></label>
      ${choice("trap", "Its output", [["none", "as it is"], ["flip", "flipped, both ways"], ["scramble", "scrambled"]])}
    </div>
    ${SORTED}
  </details>`

const COMPARE = `
  <details class="live-panel" data-panel="compare"><summary>Both networks side by side, at 1, 2 and 4 px</summary>
    <p>Error ÷ control of each layer, for this image moved to the right. 0 commutes exactly; 1 is as wrong as one step
      beside, or as another image. A stride breaks the shifts that it does not divide.</p>
    <div class="live-compare" tabindex="0" role="group" aria-label="Error ÷ control of both networks"></div>
  </details>`

export const MARKUP = `${BAR}${ALERT}
  <div class="live-strip live-revealed" role="group" aria-label="The layers, in order: choose one"></div>
  <div class="live-body"><div class="live-square" role="group"></div>${SIDE_COLUMN}</div>
  ${COMPARE.replace("live-panel", "live-panel live-revealed")}${SORT.replace("live-panel", "live-panel live-revealed")}
  <p class="live-facts"></p>${STATUS}`

/**
 * Home's first screen.
 * @param {string} page of the whole live lab
 */
export function heroMarkup(page) {
  const label = "T x: the digit. Drag it, or move it with the arrow keys"
  const numbers = (/** @type {string} */ of, /** @type {string} */ control) =>
    `error <strong data-of="${of}"></strong> <small>(${control}: <span data-control="${of}"></span>)</small>`
  return `
  <div class="hero">
    <figure class="hero-digit"><div class="square-map live-pad"><canvas tabindex="0" role="application" aria-label="${label}"></canvas><i class="live-frame"></i><i class="live-cursor" hidden></i></div>
      <p class="hero-caption"><b>The digit</b><br>Drag it.</p></figure>
    <figure class="hero-map"><div class="square-map"><canvas role="img" aria-label="What the convolution says of the digit"></canvas></div>
      <figcaption class="hero-caption"><b>convolution: <span data-says="along"></span></b><br>${numbers("convolution", "one step wrong")}</figcaption></figure>
    <figure class="hero-bars"><div class="square-map"><canvas width="400" height="400" role="img" aria-label="What the fully connected layer says: a bar for each class"></canvas></div>
      <figcaption class="hero-caption"><b>fully connected: <span data-says="mind"></span></b><br>${numbers("connected", "another image")}</figcaption></figure>
  </div>
  <p class="live-buttons"><button type="button" data-do="drift">Stop</button>
    <button type="button" data-do="next">Another digit</button>
    <a data-live-link href="${page}">All layers, both networks, your own drawing: the live lab</a></p>
  <p class="live-unseen live-status" role="status"></p>`
}

/** For radio buttons of several small labs on one page. */
let minis = 0

/**
 * A small lab in a chapter.
 * @param {{ legend: string, choices: readonly (readonly [string, string])[] }} lesson
 */
export function miniMarkup({ legend, choices }) {
  const label = "T x: the digit. Drag it, or move it with the arrow keys"
  const first = choice(`${minis++}-mini`, legend, choices).replace('type="radio"', 'type="radio" checked').replace("live-setting", "")
  return `
  <div class="mini">
    <div class="mini-tile"><b>T x: drag it</b><div class="square-map live-pad"><canvas tabindex="0" role="application" aria-label="${label}"></canvas><i class="live-frame"></i><i class="live-cursor" hidden></i></div></div>
    <div class="mini-view"></div>
  </div>
  <div class="live-bar">${choices.length ? first : ""}<button type="button" data-do="next">Another digit</button></div>
  <p class="mini-said" role="status"></p>`
}

/**
 * @param {string} name of the layer
 * @param {string} caption
 */
export function mapMarkup(name, caption) {
  return `<div class="live-figure"><div class="live-map"><canvas role="img" aria-label="${name}: ${caption}"></canvas><i class="live-interior" hidden></i></div><span>${caption}</span></div>`
}

/**
 * Change a text only if it changes: the browser then has nothing to lay out.
 * @param {HTMLElement} element
 * @param {string} text
 */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text
}
