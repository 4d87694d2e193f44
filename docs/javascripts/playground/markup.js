// The words and the markup of the playground. Nothing here comes from the address or from a file unescaped.

import { errorInWords, shiftInWords } from "../live/view.js"
import { inWords, KINDS } from "./blocks.js"
import { CHALLENGES, PRESETS } from "./presets.js"

/** @typedef {import("./blocks.js").Block} Block */
/** @typedef {import("./blocks.js").Parameter} Parameter */
/** @typedef {import("./receptive_fields.js").Geometry} Geometry */
/** @typedef {import("./verdicts.js").Finding} Finding */

const WORDS = /** @type {Record<string, string>} */ ({ exact: "exact", approximate: "smaller than without the blur", broken: "not guaranteed", untestable: "nothing can be said" })

/**
 * Radio buttons.
 * @param {string} name
 * @param {string} legend
 * @param {readonly (readonly [string, string])[]} options value and label
 */
function choice(name, legend, options) {
  const radios = options.map(
    ([value, label]) => `<label><input type="radio" name="net-${name}" value="${value}"><span>${label}</span></label>`,
  )
  return `<fieldset class="live-choice"><legend>${legend}</legend>${radios.join("")}</fieldset>`
}

const GROUPS = [
  ["Local", ["conv", "relu", "norm"]],
  ["Fewer positions", ["max", "avg", "blur", "aps"]],
  ["More", ["up", "add", "cat"]],
  ["No positions", ["gap", "gmp", "linear"]],
]
const ADD = GROUPS.map(([label, kinds]) => {
  const options = /** @type {import("./blocks.js").Kind[]} */ (kinds).map((kind) => `<option value="${kind}">${KINDS[kind].title}</option>`)
  return `<optgroup label="${label}">${options.join("")}</optgroup>`
})

export const MARKUP = `
  <div class="net-bar">
    ${choice("preset", "Begin with", Object.entries(PRESETS).map(([name, { label }]) => /** @type {const} */ ([name, label])))}
    ${choice("enter", "At the edge", [["background", "background"], ["wrap", "wraps around"]])}
    <label class="net-field"><span>Weights</span><select name="net-weights"><option value="random">random</option><option value="trained">trained</option></select></label>
    <label class="net-field"><span>Seed</span><input type="number" name="net-seed" min="0" max="9999" step="1"></label>
  </div>
  <p class="net-says"></p>
  <p class="net-error net-complaint" role="alert" hidden></p>
  <ol class="net-row" aria-label="The network: its blocks, in order"></ol>
  <div class="net-body">
    <div class="net-view">
      <div class="net-square"></div>
      <p class="net-buttons"><button type="button" data-do="digit">Another digit</button>
        <button type="button" data-do="back">Put it back</button></p>
    </div>
    <div class="net-side">
      <p class="net-title"><strong></strong> <span></span></p>
      <div class="net-parameters"></div>
      <p class="net-error net-refused" role="alert" hidden></p>
      <p class="net-buttons net-edit">
        <button type="button" data-do="earlier" aria-label="Move this block earlier">← Earlier</button>
        <button type="button" data-do="later" aria-label="Move this block later">Later →</button>
        <button type="button" data-do="remove">Remove</button>
        <span class="net-add"><select name="net-kind" aria-label="A block to add">${ADD.join("")}</select>
        <button type="button" data-do="add">Add behind</button></span></p>
      <dl class="net-facts"></dl>
      <p class="net-verdict net-theory"><b></b> <span></span></p>
      <p class="net-verdict net-seen"><b></b> <span></span></p>
    </div>
  </div>
  <div class="net-more">
    <section class="net-challenges" aria-label="Challenges">
      ${choice("challenge", "Challenges", [["0", "none"], ...CHALLENGES.map(({ title }, i) => /** @type {[string, string]} */ ([String(i + 1), title]))])}
      <div class="net-challenge" hidden><p class="net-task"></p>
        <p class="net-judged" role="status"></p><ol class="net-hints"></ol>
        <p class="net-buttons"><button type="button" data-do="hint">A hint</button>
          <button type="button" data-do="restart">Start again</button>
          <button type="button" data-do="solution">Show a solution</button></p></div>
    </section>
    <section class="net-home" aria-label="Take it home, bring your own">
      <p class="net-buttons"><button type="button" data-do="copy">Copy as PyTorch</button>
        <button type="button" data-do="link">Copy link</button>
        <label class="net-open"><input type="file" accept=".json,application/json" class="live-unseen"><span>Open your own …</span></label></p>
      <p class="net-help">The program holds this network, its weights, and the call that measures it. Your own network comes from
        <code>lab export --model</code>: drop the file here. It stays on this machine.</p>
      <details class="net-program"><summary>The program</summary><pre aria-label="The network in PyTorch"><code tabindex="0"></code></pre></details>
    </section>
  </div>
  <p class="live-unseen net-status" role="status"></p>`

/** The windows on the corner x: what one output sees, and where the outputs stand that see no border. */
export const WINDOWS = `<i class="net-inside" hidden></i><i class="net-window" hidden></i>`

/**
 * @param {number} at the place of the block, from 1; 0 is the image
 */
export function cardMarkup(at) {
  return `<button type="button" data-block="${at - 1}"><canvas width="1" height="1" aria-hidden="true"></canvas>
    <span class="net-kind"></span><span class="net-size"><span></span><span></span></span><i class="net-sign" aria-hidden="true"></i><span class="live-unseen net-heard"></span></button>`
}

/**
 * A field for each parameter of a block.
 * @param {Block} block
 * @param {readonly string[]} names of the image and of the blocks before it
 */
export function parametersMarkup(block, names) {
  return KINDS[block.kind].parameters
    .map((parameter) => {
      const { name, label, low, high, words } = parameter
      if (!words && name !== "from") {
        return `<label class="net-field"><span>${label}</span><input type="number" name="${name}" min="${low}" max="${high}" step="1" value="${Number(block[name])}"></label>`
      }
      const options = words ? words.map((one) => [one, one]) : names.map((one, i) => [String(i), one])
      const list = options.map(([value, text]) => `<option value="${value}"${value === String(block[name]) ? " selected" : ""}>${text}</option>`)
      return `<label class="net-field"><span>${label}</span><select name="${name}">${list.join("")}</select></label>`
    })
    .join("")
}

/**
 * A block in a few words, with what tells it from others of its kind.
 * @param {Block} block
 */
export function blockInWords(block) {
  const { kind, kernel, stride, padding, dilation } = block
  const parts = [
    ...(kernel ? [`${kernel} × ${kernel}`] : []),
    ...(Number(stride) > 1 ? [`stride ${stride}`] : []),
    ...(padding && padding !== "none" ? [String(padding)] : []),
    ...(Number(dilation) > 1 ? [`dilation ${dilation}`] : []),
    ...(kind === "up" ? [`× ${block.factor}`] : []),
    ...(kind === "add" || kind === "cat" ? [Number(block.from) ? `from ${block.from}` : "from x"] : []),
  ]
  return parts.join(", ")
}

/** @param {[number, number]} fraction */
function fractionInWords([above, below]) {
  return below === 1 ? String(above) : `${above}/${below}`
}

/**
 * Step, period, receptive field and interior, as pairs of a term and what it is here.
 * @param {Geometry} geometry
 * @returns {[string, string][]}
 */
export function factsOf({ grid, facts }) {
  const period = `${[...new Set(facts.period)].join(" × ")} px`
  if (!grid) return [["positions", "none"], ["period", period]]
  const [y, x] = grid
  const inside = [y, x].map(({ interior }) => interior[1] - interior[0])
  const all = inside[0] === y.outputs && inside[1] === x.outputs
  const round = y.circular && x.circular
  const interior = all ? `all ${y.outputs} × ${x.outputs}` : inside[0] * inside[1] === 0 ? "empty" : `${inside[0]} × ${inside[1]} of ${y.outputs} × ${x.outputs}`
  return [
    ["step", x.step ? `${fractionInWords(x.step)} px` : "irregular"],
    ["period", period],
    ["receptive field", x.receptiveField ? `${x.receptiveField} px` : "all of the image"],
    ["interior", round && !all ? `${interior}; it goes round` : interior],
  ]
}

/**
 * What theory promises at this shift.
 * @param {Finding} finding
 * @param {number} dy
 * @param {number} dx
 * @returns {{ exact: string, word: string, why: string }}
 */
export function theoryInWords({ geometry, theory }, dy, dx) {
  if (!dy && !dx) return { exact: "null", word: "nothing has moved", why: "Drag T x, or press an arrow key." }
  const exact = theory.expectation === "exact" ? "true" : theory.expectation === "untestable" ? "null" : "false"
  const word = geometry.grid || theory.expectation !== "exact" ? WORDS[theory.expectation] : "invariant"
  return { exact, word, why: plainly(theory.why) }
}

/**
 * The lab's reason, with its symbols in words.
 * @param {string} why
 */
function plainly(why) {
  const text = why
    .replace(/S = (\S+) divides/, "the period, $1 px, divides")
    .replace(/S = (\S+) does not divide/, "the period, $1 px, does not divide")
    .replace(/finer than S$/, "finer than the period")
    .replace(/weighs positions differently \(ρ = (\S+), 1 is tied\)/, "has weights of its own for each position (ρ = $1; 1 would be alike everywhere)")
  return /^[a-z]+\d/.test(text) ? `${text}.` : `${text.charAt(0).toUpperCase()}${text.slice(1)}.`
}

/**
 * What was seen on this digit.
 * @param {Finding} finding
 * @param {number} dy
 * @param {number} dx
 * @returns {{ exact: boolean | null, word: string, why: string }}
 */
export function seenInWords(finding, dy, dx) {
  const { geometry, observed, error, control, full, sharp } = finding
  if (!dy && !dx) return { exact: null, word: "nothing has moved", why: "" }
  if (observed === "nothing") return { exact: null, word: "nothing to compare", why: "The map has left the frame." }
  if (observed === "degenerate") return { exact: null, word: "says nothing", why: "It returns the same for every image, or at every position." }
  const exact = observed === "exact"
  const word = geometry.grid ? (exact ? "exact" : "broken") : exact ? "invariant" : "changes"
  const against = geometry.grid ? "one step wrong" : "another digit"
  const parts = [
    `error ${errorInWords(exact ? 0 : error)}, control (${against}) ${errorInWords(control)}`,
    ...(geometry.grid && finding.moved?.inside && Math.abs(full - error) > 1e-9 ? [`with the border ${errorInWords(full)}`] : []),
    ...(Number.isNaN(sharp) ? [] : [`without the blur ${errorInWords(sharp)}`]),
  ]
  return { exact, word, why: `${parts.join("; ")}.` }
}

/**
 * The error as a share of its control, between 0 and 1.
 * @param {Finding} finding
 */
export function share({ observed, error, control }) {
  if (observed !== "not exact" || !(control > 0)) return 0
  return Math.min(error / control, 1)
}

/**
 * One sentence on the whole network, for the line above and for a screen reader.
 * @param {readonly Finding[]} findings
 * @param {number} dy
 * @param {number} dx
 */
export function summary(findings, dy, dx) {
  if (!dy && !dx) return "Nothing has moved."
  const exact = findings.filter(({ observed }) => observed === "exact").length
  const last = findings[findings.length - 1]
  const end = last.geometry.grid ? { exact: "moves along exactly", "not exact": "does not move along exactly" } : { exact: "stays the same", "not exact": "changes" }
  const said = /** @type {Record<string, string>} */ (end)[last.observed] ?? "cannot be judged"
  return `Moved ${shiftInWords(dy, dx)}: ${exact} of ${findings.length} blocks exact; the output ${said}.`
}

/** @param {readonly number[]} shape */
export function shapeInWords(shape) {
  return shape.length === 1 ? `${shape[0]} values` : inWords(shape)
}
