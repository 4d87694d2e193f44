// Drawing on the 28 × 28 grid. Ink has 16 levels, so that an address can carry a drawing without loss.

export const SIZE = 28
const LEVELS = 15
const RADIUS = 1.6 // pixels; MNIST's strokes are about three wide
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" // base64url

/**
 * Press a round, soft pen.
 * @param {Float32Array} pixels in 0 to 1, changed
 * @param {number} y its middle, in pixels from the upper edge
 * @param {number} x from the left edge
 */
export function press(pixels, y, x) {
  for (let i = Math.max(0, Math.floor(y - 2)); i < Math.min(SIZE, y + 2); i++) {
    for (let j = Math.max(0, Math.floor(x - 2)); j < Math.min(SIZE, x + 2); j++) {
      const distance = Math.hypot(i + 0.5 - y, j + 0.5 - x)
      const ink = Math.round(LEVELS * Math.min(1, Math.max(0, RADIUS + 0.4 - distance))) / LEVELS
      pixels[i * SIZE + j] = Math.max(pixels[i * SIZE + j], ink)
    }
  }
}

/**
 * A stroke from one place to another.
 * @param {Float32Array} pixels changed
 * @param {readonly [number, number]} from y, x
 * @param {readonly [number, number]} to y, x
 */
export function stroke(pixels, from, to) {
  const steps = Math.max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])))
  for (let s = 0; s <= steps; s++) {
    press(pixels, from[0] + ((to[0] - from[0]) * s) / steps, from[1] + ((to[1] - from[1]) * s) / steps)
  }
}

/**
 * A drawing as text for an address: two characters for three pixels.
 * @param {Float32Array} pixels
 * @returns {string}
 */
export function encode(pixels) {
  let text = ""
  for (let i = 0; i < pixels.length; i += 3) {
    const [a, b, c] = [0, 1, 2].map((k) => Math.round(LEVELS * (pixels[i + k] ?? 0)))
    const bits = (a << 8) | (b << 4) | c
    text += ALPHABET[bits >> 6] + ALPHABET[bits & 63]
  }
  return text
}

/**
 * @param {string} text
 * @returns {Float32Array | null} null for what no drawing is encoded as
 */
export function decode(text) {
  const pixels = new Float32Array(SIZE * SIZE)
  if (text.length !== 2 * Math.ceil(pixels.length / 3)) return null
  for (let i = 0; i < text.length; i += 2) {
    const [high, low] = [ALPHABET.indexOf(text[i]), ALPHABET.indexOf(text[i + 1])]
    if (high < 0 || low < 0) return null
    const bits = (high << 6) | low
    const levels = [bits >> 8, (bits >> 4) & 15, bits & 15]
    levels.forEach((level, k) => {
      const at = (i / 2) * 3 + k
      if (at < pixels.length) pixels[at] = level / LEVELS
    })
  }
  return pixels
}
