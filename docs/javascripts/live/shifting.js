// Translations of images and of feature maps. `dy > 0` is down, `dx > 0` is right.

/** @typedef {import("./layers.js").Tensor} Tensor */
/** @typedef {"background" | "wrap"} Mode what enters the frame: the background, or what has left on the other side */

/**
 * Where a map and its translation have a counterpart in each other: rows `top` to `bottom`, the latter not included.
 * @typedef {object} Region
 * @property {number} top
 * @property {number} bottom
 * @property {number} left
 * @property {number} right
 */

/**
 * Translate every channel by whole positions.
 * @param {Tensor} x `[channels, height, width]`
 * @param {number} dy positions down, less than `height` either way
 * @param {number} dx positions right, less than `width` either way
 * @param {Mode} mode
 * @param {number | ArrayLike<number>} background what enters, one number or one for each channel; not used to wrap
 * @param {Tensor} out of the same shape, another tensor than `x`, overwritten
 * @returns {Tensor} `out`
 */
export function shift(x, dy, dx, mode, background, out) {
  const [channels, height, width] = x.shape
  const fill = typeof background === "number" ? null : background
  for (let c = 0, at = 0; c < channels; c++) {
    const enters = fill ? fill[c] : /** @type {number} */ (background)
    for (let y = 0; y < height; y++) {
      for (let q = 0; q < width; q++, at++) {
        let i = y - dy
        let j = q - dx
        if (mode === "wrap") {
          i = i < 0 ? i + height : i >= height ? i - height : i
          j = j < 0 ? j + width : j >= width ? j - width : j
        }
        const inside = i >= 0 && i < height && j >= 0 && j < width
        out.data[at] = inside ? x.data[(c * height + i) * width + j] : enters
      }
    }
  }
  return out
}

/**
 * The interior: positions of a map that had a counterpart before a move. Where the network has no padding, all their
 * windows lie inside the frame, before and after.
 * @param {readonly number[]} shape `[channels, height, width]`
 * @param {number} my positions down
 * @param {number} mx positions right
 * @returns {Region} empty where `top >= bottom` or `left >= right`
 */
export function interior([, height, width], my, mx) {
  return {
    top: Math.max(my, 0),
    bottom: height + Math.min(my, 0),
    left: Math.max(mx, 0),
    right: width + Math.min(mx, 0),
  }
}

/**
 * The whole positions of a map that are nearest to a shift of the image.
 * @param {number} t the shift along one axis, in pixels of the image
 * @param {number} stride of the map, in pixels of the image
 * @returns {number[]} one where the stride divides the shift, else the two beside it
 */
export function moves(t, stride) {
  const [below, above] = [Math.floor(t / stride), Math.ceil(t / stride)]
  return below === above ? [below + 0] : [below + 0, above + 0]
}
