// Numbers as colours. The colours are those of the course's figures: gray for images, viridis for activations, blue and
// red below and above zero for differences.

/** @typedef {import("./layers.js").Tensor} Tensor */
/** @typedef {"image" | "feature" | "difference"} Kind */

const VIRIDIS = "440154 482173 433e85 38588c 2d708e 25858e 1e9b8a 2ab07f 52c569 86d549 c2df23 fde725"
const RED_BLUE = "053061 2065ab 4393c3 90c4dd d1e5f0 f7f6f6 fddbc7 f3a481 d6604d b1182b 67001f"
export const FIRST = "#0072b2" // x, and T f(x): Okabe and Ito's blue
export const SECOND = "#d55e00" // T x, and f(T x): their vermilion

/**
 * 256 colours, as the bytes of `ImageData`, evenly between anchors.
 * @param {string} anchors hexadecimal
 */
function colours(anchors) {
  const given = anchors.split(" ").map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)))
  const table = new Uint8ClampedArray(4 * 256)
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (given.length - 1)
    const below = Math.min(Math.floor(place), given.length - 2)
    for (let k = 0; k < 3; k++) {
      table[4 * i + k] = given[below][k] + (place - below) * (given[below + 1][k] - given[below][k])
    }
    table[4 * i + 3] = 255
  }
  return table
}

const TABLES = { image: colours("ffffff 000000"), feature: colours(VIRIDIS), difference: colours(RED_BLUE) }

/** A canvas of one pixel for each value, enlarged by the style sheet. */
export class Painter {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {number} height in values
   * @param {number} width in values
   */
  constructor(canvas, height, width) {
    canvas.height = height
    canvas.width = width
    const context = canvas.getContext("2d")
    if (!context) throw new Error("this browser draws no canvas")
    this.context = context
    this.pixels = context.createImageData(width, height)
  }

  /**
   * @param {ArrayLike<number>} values at least as many as there are pixels, from `from` on
   * @param {Kind} kind
   * @param {number} low the value of the first colour
   * @param {number} high of the last
   * @param {number} [from]
   */
  paint(values, kind, low, high, from = 0) {
    const { data } = this.pixels
    const table = TABLES[kind]
    const factor = high > low ? 255 / (high - low) : 0
    for (let i = 0; i < data.length; i += 4) {
      const level = Math.round((values[from + i / 4] - low) * factor)
      const at = 4 * (level < 0 ? 0 : level > 255 ? 255 : level)
      data[i] = table[at]
      data[i + 1] = table[at + 1]
      data[i + 2] = table[at + 2]
      data[i + 3] = 255
    }
    this.context.putImageData(this.pixels, 0, 0)
  }
}

/**
 * Two rising curves, one over the other.
 * @param {HTMLCanvasElement} canvas
 * @param {readonly ArrayLike<number>[]} curves of f(x), then of f(T x)
 */
export function paintCurves(canvas, curves) {
  const context = canvas.getContext("2d")
  if (!context) return
  const { width, height } = canvas
  const last = curves[0].length - 1
  const low = Math.min(...curves.map((curve) => curve[0]))
  const high = Math.max(...curves.map((curve) => curve[last]))
  const margin = 6
  context.clearRect(0, 0, width, height)
  curves.forEach((curve, number) => {
    context.beginPath()
    context.strokeStyle = [FIRST, SECOND][number]
    context.lineWidth = [6, 2][number] // the second lies inside the first where they agree
    context.setLineDash(number ? [8, 5] : [])
    for (let i = 0; i <= last; i++) {
      const y = high > low ? (curve[i] - low) / (high - low) : 0.5
      context.lineTo(margin + (i / last) * (width - 2 * margin), height - margin - y * (height - 2 * margin))
    }
    context.stroke()
  })
}

/**
 * One cell of a shift map: blue if the class there is the right one, else vermilion; the paler, the less sure.
 * @param {CanvasRenderingContext2D} context
 * @param {number} size pixels of a cell
 * @param {number} row
 * @param {number} column
 * @param {boolean} right
 * @param {number} probability
 */
export function paintCell(context, size, row, column, right, probability) {
  const full = right ? [0, 114, 178] : [213, 94, 0]
  const weight = 0.25 + 0.75 * probability
  context.fillStyle = `rgb(${full.map((level) => Math.round(255 - weight * (255 - level))).join()})`
  context.fillRect(column * size, row * size, size, size)
}

/**
 * A class, where its part of a shift map has room for it.
 * @param {CanvasRenderingContext2D} context
 * @param {number} size pixels of a cell
 * @param {{ row: number, column: number, radius: number, predicted: number }} place
 */
export function paintClass(context, size, { row, column, radius, predicted }) {
  context.font = `700 ${Math.round(size * Math.min(2 * radius + 1, 5))}px sans-serif`
  context.textAlign = "center"
  context.textBaseline = "middle"
  context.lineWidth = size / 3
  context.lineJoin = "round"
  context.strokeStyle = "#fff"
  context.fillStyle = "#111"
  context.strokeText(String(predicted), (column + 0.5) * size, (row + 0.6) * size)
  context.fillText(String(predicted), (column + 0.5) * size, (row + 0.6) * size)
}

/**
 * Bars from 0 to each value of a vector, one below the other, with its number where there is room.
 * @param {HTMLCanvasElement} canvas on white, as all maps are
 * @param {ArrayLike<number>} values
 * @param {"feature" | "difference"} kind
 * @param {number} low the value at the left edge, at most 0
 * @param {number} high the value at the right edge, at least 0
 * @param {boolean} labelled
 */
export function paintBars(canvas, values, kind, low, high, labelled) {
  const context = canvas.getContext("2d")
  if (!context) return
  const { width, height } = canvas
  const left = labelled ? Math.round(width / 9) : 4
  const place = (/** @type {number} */ value) => left + ((value - low) / (high - low || 1)) * (width - left - 4)
  const row = height / values.length
  context.fillStyle = "#fff"
  context.fillRect(0, 0, width, height)
  context.font = `${Math.round(row * 0.82)}px sans-serif`
  context.textBaseline = "middle"
  for (let i = 0; i < values.length; i++) {
    const [from, to] = [place(0), place(values[i])]
    context.fillStyle = kind === "feature" ? "#2d708e" : values[i] < 0 ? "#2065ab" : "#b1182b"
    context.fillRect(Math.min(from, to), (i + 0.15) * row, Math.abs(to - from), row * 0.7)
    context.fillStyle = "#333"
    if (labelled) context.fillText(String(i), 6, (i + 0.54) * row)
  }
  context.fillRect(place(0) - 1, 0, 2, height)
}
