// How far activations are from equivariant or invariant: as `lab.metrics`, for one image.

/** @typedef {import("./layers.js").Tensor} Tensor */
/** @typedef {import("./shifting.js").Region} Region */

/**
 * How far f(T x) is from T f(x): ‖moved − expected‖ / ‖expected‖ over a region.
 * @param {Tensor} moved f(T x), `[channels, height, width]`
 * @param {Tensor} expected T f(x), of the same shape
 * @param {Region} [valid] where the two are compared; everywhere by default
 * @returns {number} 0 = exactly equivariant; NaN = both are zero, or nothing is valid; Infinity = only `expected` is zero
 */
export function equivarianceError(moved, expected, valid) {
  const [channels, height, width] = moved.shape
  const { top, bottom, left, right } = valid ?? { top: 0, bottom: height, left: 0, right: width }
  let square = 0
  let scale = 0
  for (let c = 0; c < channels; c++) {
    for (let y = top; y < bottom; y++) {
      for (let i = (c * height + y) * width + left, end = i + right - left; i < end; i++) {
        square += (moved.data[i] - expected.data[i]) ** 2
        scale += expected.data[i] ** 2
      }
    }
  }
  return Math.sqrt(square) / Math.sqrt(scale)
}

/**
 * How far f(T x) is from f(x): ‖b − a‖ over the mean distance of unrelated images.
 * @param {Tensor} a f(x)
 * @param {Tensor} b f(T x), of the same shape
 * @param {number} unrelatedDistance mean ‖f(x) − f(x')‖, measured over many images
 * @returns {number} 0 = invariant, about 1 = as different as another image; NaN = nothing tells images apart
 */
export function invarianceError(a, b, unrelatedDistance) {
  let square = 0
  for (let i = 0; i < a.data.length; i++) square += (b.data[i] - a.data[i]) ** 2
  return Math.sqrt(square) / unrelatedDistance
}

/**
 * The activations of each channel in ascending order; a vector stays as it is, for its entries are channels.
 * @param {Tensor} x
 * @param {Tensor} out of the same shape, overwritten
 * @returns {Tensor} `out`
 */
export function sortPositions(x, out) {
  out.data.set(x.data)
  if (x.shape.length === 3) {
    const positions = x.shape[1] * x.shape[2]
    for (let at = 0; at < x.data.length; at += positions) out.data.subarray(at, at + positions).sort()
  }
  return out
}
