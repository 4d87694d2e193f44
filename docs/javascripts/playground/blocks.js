// A network as data: a row of blocks, what each may be, and the rules that a row must keep.

/** @typedef {"zeros" | "circular" | "reflect" | "none"} Padding */
/** @typedef {"conv" | "relu" | "max" | "avg" | "blur" | "aps" | "norm" | "gap" | "gmp" | "linear" | "add" | "cat" | "up"} Kind */
/** @typedef {{ kind: Kind } & Record<string, number | string>} Block its kind, and a value for each parameter of that kind */
/** @typedef {readonly number[]} Shape `[channels, height, width]`, or `[features]` */

/**
 * A parameter of a block: whole numbers from `low` to `high`, or one of some words.
 * @typedef {object} Parameter
 * @property {string} name
 * @property {string} label
 * @property {number} usual where it is a word, its place among `words`
 * @property {number} low
 * @property {number} high
 * @property {readonly string[]} [words]
 */

/** A network that cannot be: the rule, then the values; and which block broke it, counted from 0. */
export class RuleError extends Error {
  /**
   * @param {string} rule
   * @param {number} [at]
   */
  constructor(rule, at = -1) {
    super(rule)
    this.at = at
  }
}

export const SIDE_OF_IMAGE = 28
const LEAST_SIDE = 3 // of a map; fewer positions are hardly a map, and go round a circle at once
export const MOST_BLOCKS = 10
export const MOST_PARAMETERS = 500_000
export const MOST_PRODUCTS = 10_000_000 // of one image; more takes longer than a frame
export const IMAGE = [1, SIDE_OF_IMAGE, SIDE_OF_IMAGE]

/**
 * @param {string} name
 * @param {string} label
 * @param {number} usual
 * @param {number} low
 * @param {number} high
 * @returns {Parameter}
 */
const number = (name, label, usual, low, high) => ({ name, label, usual, low, high })

/**
 * @param {string} name
 * @param {string} label
 * @param {readonly string[]} words
 * @returns {Parameter}
 */
const word = (name, label, words) => ({ name, label, usual: 0, low: 0, high: words.length - 1, words })

const SOURCE = number("from", "from block", 0, 0, MOST_BLOCKS - 1) // 0 is the image

/** What there is: the name that people read, the stem of the layer's name in PyTorch, and the parameters in their order. */
export const KINDS = /** @type {Record<Kind, { title: string, stem: string, parameters: readonly Parameter[] }>} */ ({
  conv: {
    title: "convolution",
    stem: "conv",
    parameters: [
      number("channels", "channels", 4, 1, 32),
      number("kernel", "kernel", 3, 1, 7),
      number("stride", "stride", 1, 1, 4),
      word("padding", "padding", ["zeros", "circular", "reflect", "none"]),
      number("dilation", "dilation", 1, 1, 4),
    ],
  },
  relu: { title: "ReLU", stem: "relu", parameters: [] },
  max: {
    title: "max pooling",
    stem: "pool",
    parameters: [number("kernel", "window", 2, 2, 7), number("stride", "stride", 2, 1, 4)],
  },
  avg: {
    title: "average pooling",
    stem: "pool",
    parameters: [number("kernel", "window", 2, 2, 7), number("stride", "stride", 2, 1, 4)],
  },
  blur: {
    title: "BlurPool",
    stem: "blur",
    parameters: [
      { ...number("kernel", "kernel", 3, 3, 5) },
      number("stride", "stride", 2, 1, 4),
      word("padding", "padding", ["circular", "reflect", "zeros"]),
    ],
  },
  aps: { title: "adaptive sampling", stem: "aps", parameters: [number("stride", "stride", 2, 2, 4)] },
  norm: { title: "instance norm", stem: "norm", parameters: [] },
  gap: { title: "global average", stem: "mean", parameters: [] },
  gmp: { title: "global maximum", stem: "max", parameters: [] },
  linear: { title: "fully connected", stem: "fc", parameters: [number("outputs", "outputs", 10, 1, 64)] },
  add: { title: "skip, added", stem: "add", parameters: [SOURCE] },
  cat: { title: "skip, beside", stem: "cat", parameters: [SOURCE] },
  up: { title: "nearest upsampling", stem: "up", parameters: [number("factor", "factor", 2, 2, 4)] },
})

/**
 * A number of a block.
 * @param {Block} block
 * @param {string} name
 */
export function numberOf(block, name) {
  return Number(block[name])
}

/**
 * What a block is called in PyTorch: `conv1`, `relu2`.
 * @param {Block} block
 * @param {number} at its place, from 0
 */
export function nameOf(block, at) {
  return `${KINDS[block.kind].stem}${at + 1}`
}

/**
 * By how many positions a block pads before and after, along each axis.
 * @param {Block} block
 * @returns {[number, number]}
 */
export function padsOf({ kind, kernel, dilation = 1, padding }) {
  if ((kind !== "conv" && kind !== "blur") || padding === "none") return [0, 0]
  const whole = Number(dilation) * (Number(kernel) - 1)
  return [Math.floor(whole / 2), Math.ceil(whole / 2)]
}

/**
 * What a block makes of a shape.
 * @param {Block} block
 * @param {Shape} shape what enters
 * @param {readonly Shape[]} before the shapes of all that could be skipped from: the image, then each block
 * @param {number} at its place, for messages
 * @returns {Shape}
 */
function shapeAfter(block, shape, before, at) {
  const { kind } = block
  const fail = (/** @type {string} */ rule) => new RuleError(rule, at)
  if (kind === "relu") return shape
  if (kind === "linear") return [numberOf(block, "outputs")]
  const [channels, height] = shape
  if (kind === "add" || kind === "cat") return joined(block, shape, before, fail)
  if (shape.length === 1) throw fail(`${KINDS[kind].title} needs a map with positions: none are left`)
  if (kind === "norm") return shape
  if (kind === "gap" || kind === "gmp") return [channels]
  const size = kind === "up" ? height * numberOf(block, "factor") : sizeAfter(block, height, fail)
  if (size < LEAST_SIDE) throw fail(`at least ${LEAST_SIDE} × ${LEAST_SIDE} positions must be left, or use a global maximum: ${size} × ${size}`)
  if (size > 4 * SIDE_OF_IMAGE) throw fail(`a map may have ${4 * SIDE_OF_IMAGE} positions a side: ${size}`)
  return [kind === "conv" ? numberOf(block, "channels") : channels, size, size]
}

/**
 * @param {Block} block
 * @param {number} size of the map that enters
 * @param {(rule: string) => RuleError} fail
 */
function sizeAfter(block, size, fail) {
  const { kind, padding } = block
  const [kernel, stride, dilation] = ["kernel", "stride", "dilation"].map((name) => Number(block[name] ?? 1))
  if (kind === "aps") {
    if (size % stride) throw fail(`the stride of adaptive sampling must divide the map: ${stride} does not divide ${size}`)
    return size / stride
  }
  if (kind === "blur" && kernel % 2 === 0) throw fail(`BlurPool's kernel must be 3 or 5: ${kernel}`)
  const [before, after] = padsOf(block)
  if (before !== after && stride > 1) {
    throw fail(`with a stride, padding needs a window of odd length: ${dilation * (kernel - 1) + 1}, stride ${stride}`)
  }
  if (padding === "reflect" && after >= size) throw fail(`reflected padding must be smaller than the map: ${after}, ${size}`)
  if (padding === "circular" && after > size) throw fail(`circular padding must not be larger than the map: ${after}, ${size}`)
  const window = dilation * (kernel - 1) + 1
  const room = size + before + after
  if (window > room) throw fail(`the window must fit into the map: ${window} × ${window} into ${room} × ${room}`)
  return Math.floor((size + before + after - window) / stride) + 1
}

/**
 * @param {Block} block a skip
 * @param {Shape} shape
 * @param {readonly Shape[]} before
 * @param {(rule: string) => RuleError} fail
 * @returns {Shape}
 */
function joined(block, shape, before, fail) {
  const source = numberOf(block, "from")
  const last = before.length - 2
  if (last < 0) throw fail("a skip needs a block in front of it, around which it leads")
  if (source > last) throw fail(`a skip comes from 0, the image, or from a block up to ${last}: ${source}`)
  const other = before[source]
  const said = `${inWords(shape)}, ${inWords(other)}`
  if (block.kind === "add") {
    if (String(shape) !== String(other)) throw fail(`what is added must have the same shape: ${said}`)
    return shape
  }
  if (shape.length === 1 || String(shape.slice(1)) !== String(other.slice(1))) {
    throw fail(`what is put beside it must have as many positions: ${said}`)
  }
  return [shape[0] + other[0], shape[1], shape[2]]
}

/** @param {Shape} shape */
export function inWords(shape) {
  return shape.join(" × ")
}

/**
 * The shapes of the weights of a block; none if it has none.
 * @param {Block} block
 * @param {Shape} shape what enters
 * @returns {{ weight: Shape, bias: Shape } | null}
 */
export function weightsOf(block, shape) {
  if (block.kind === "linear") {
    const outputs = numberOf(block, "outputs")
    return { weight: [outputs, shape.reduce((a, b) => a * b, 1)], bias: [outputs] }
  }
  if (block.kind !== "conv") return null
  const [outputs, kernel] = ["channels", "kernel"].map((name) => numberOf(block, name))
  return { weight: [outputs, shape[0], kernel, kernel], bias: [outputs] }
}

/**
 * Refuse a parameter that is out of its bounds.
 * @param {Block} block
 * @param {number} at
 */
function checkParameters(block, at) {
  for (const { name, label, low, high, words } of KINDS[block.kind].parameters) {
    const value = block[name]
    if (words ? !words.includes(String(value)) : !Number.isInteger(value) || Number(value) < low || Number(value) > high) {
      const allowed = words ? words.join(", ") : `${low} to ${high}`
      throw new RuleError(`${label} must be ${words ? "one of " : ""}${allowed}: ${value}`, at)
    }
  }
}

/**
 * The shapes of a network: of the image, then of what each block returns.
 * @param {readonly Block[]} blocks
 * @returns {Shape[]}
 * @throws {RuleError} it cannot be, or is too large for a page
 */
export function shapesOf(blocks) {
  if (!blocks.length) throw new RuleError("a network needs at least one block")
  if (blocks.length > MOST_BLOCKS) throw new RuleError(`at most ${MOST_BLOCKS} blocks: ${blocks.length}`)
  /** @type {Shape[]} */
  const shapes = [IMAGE]
  let [parameters, products] = [0, 0]
  blocks.forEach((block, at) => {
    checkParameters(block, at)
    const weights = weightsOf(block, shapes[at])
    const count = weights ? weights.weight.reduce((a, b) => a * b, 1) : 0
    parameters += count + (weights?.bias[0] ?? 0)
    if (parameters > MOST_PARAMETERS) throw new RuleError(`at most ${said(MOST_PARAMETERS)} parameters: ${said(parameters)}`, at)
    if (block.kind === "gap" && blocks[at - 1]?.kind === "norm") throw new RuleError("the mean behind an instance norm is always 0", at)
    shapes.push(shapeAfter(block, shapes[at], shapes, at))
    products += count * shapes[at + 1].slice(1).reduce((a, b) => a * b, 1)
    if (products > MOST_PRODUCTS) throw new RuleError(`at most ${said(MOST_PRODUCTS)} products for an image: ${said(products)}`, at)
  })
  return shapes
}

/** @param {number} count */
function said(count) {
  return count.toLocaleString("en")
}

/**
 * A row of blocks as text for an address: `conv.4.3.1.zeros.1,relu,max.2.2`.
 * @param {readonly Block[]} blocks
 */
export function format(blocks) {
  return blocks.map((block) => [block.kind, ...KINDS[block.kind].parameters.map(({ name }) => block[name])].join(".")).join(",")
}

/**
 * The blocks of such a text, which may come from anybody; `shapesOf` says whether they can be.
 * @param {string} text
 * @returns {Block[]}
 * @throws {RuleError} a block that there is not
 */
export function parse(text) {
  return text
    .split(",")
    .slice(0, MOST_BLOCKS + 1)
    .map((part, at) => {
      const [kind, ...values] = part.split(".")
      if (!Object.hasOwn(KINDS, kind)) throw new RuleError(`there is no block called ${kind.slice(0, 20)}`, at)
      const parameters = KINDS[/** @type {Kind} */ (kind)].parameters
      if (values.length !== parameters.length) throw new RuleError(`${kind} takes ${parameters.length} parameters: ${values.length}`, at)
      const given = parameters.map(({ name, words }, i) => [name, words ? values[i] : /^\d{1,12}$/.test(values[i]) ? Number(values[i]) : NaN])
      return /** @type {Block} */ ({ kind, ...Object.fromEntries(given) })
    })
}

/**
 * A block with the usual parameters.
 * @param {Kind} kind
 * @returns {Block}
 */
export function usual(kind) {
  const values = KINDS[kind].parameters.map(({ name, usual: value, words }) => [name, words ? words[value] : value])
  return /** @type {Block} */ ({ kind, ...Object.fromEntries(values) })
}
