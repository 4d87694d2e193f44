// What each block computes, as in PyTorch, in float64: then an error of rounding is told from a real one.

/** @typedef {import("./blocks.js").Shape} Shape */
/** @typedef {{ data: Float64Array, shape: Shape }} Tensor */

/**
 * @param {Shape} shape
 * @returns {Tensor}
 */
export function room(shape) {
  return { data: new Float64Array(shape.reduce((a, b) => a * b, 1)), shape }
}

/**
 * Where each position of a padded line comes from; -1 for a zero.
 * @param {number} size
 * @param {number} before
 * @param {number} after
 * @param {string} padding
 * @returns {Int32Array}
 */
export function padded(size, before, after, padding) {
  return Int32Array.from({ length: size + before + after }, (_, at) => {
    const i = at - before
    if (i >= 0 && i < size) return i
    if (padding === "circular") return ((i % size) + size) % size
    if (padding === "reflect") return i < 0 ? -i : 2 * (size - 1) - i
    return -1
  })
}

/**
 * A map with what lies around it.
 * @param {Tensor} x
 * @param {Int32Array} places along rows and along columns
 * @param {Tensor} out overwritten
 */
export function pad(x, places, out) {
  const [channels, height, width] = x.shape
  let at = 0
  for (let c = 0; c < channels; c++) {
    for (const i of places) {
      const row = (c * height + i) * width
      for (const j of places) out.data[at++] = i < 0 || j < 0 ? 0 : x.data[row + j]
    }
  }
}

/**
 * Cross-correlation without padding.
 * @param {Tensor} x
 * @param {Tensor} weight `[outputs, channels, kernel, kernel]`; with `each`, one kernel for each channel by itself
 * @param {Float64Array | null} bias
 * @param {number} stride
 * @param {number} dilation
 * @param {Tensor} out overwritten
 * @param {boolean} [each]
 */
export function convolve(x, weight, bias, stride, dilation, out, each = false) {
  const [, height, width] = x.shape
  const [outputs, channels, kernel] = weight.shape
  const [, rows, columns] = out.shape
  const { data } = x
  const sums = new Float64Array(columns)
  for (let o = 0, at = 0; o < outputs; o++) {
    for (let y = 0; y < rows; y++, at += columns) {
      sums.fill(bias ? bias[o] : 0)
      for (let c = 0, k = o * channels * kernel * kernel; c < channels; c++) {
        const plane = (each ? o : c) * height
        for (let i = 0; i < kernel; i++) {
          const row = (plane + y * stride + i * dilation) * width
          for (let j = 0; j < kernel; j++, k++) {
            const factor = weight.data[k]
            let from = row + j * dilation
            if (stride === 1) for (let q = 0; q < columns; q++) sums[q] += factor * data[from + q]
            else for (let q = 0; q < columns; q++, from += stride) sums[q] += factor * data[from]
          }
        }
      }
      out.data.set(sums, at)
    }
  }
}

/**
 * The largest value, or the mean, of each window.
 * @param {Tensor} x
 * @param {boolean} largest
 * @param {number} kernel
 * @param {number} stride
 * @param {Tensor} out overwritten
 */
export function pool(x, largest, kernel, stride, out) {
  const [, height, width] = x.shape
  const [channels, rows, columns] = out.shape
  for (let c = 0, at = 0; c < channels; c++) {
    for (let y = 0; y < rows; y++) {
      for (let q = 0; q < columns; q++, at++) {
        let value = largest ? -Infinity : 0
        for (let i = 0; i < kernel; i++) {
          const from = (c * height + y * stride + i) * width + q * stride
          for (let j = 0; j < kernel; j++) {
            const one = x.data[from + j]
            if (!largest) value += one
            else if (one > value) value = one
          }
        }
        out.data[at] = largest ? value : value / (kernel * kernel)
      }
    }
  }
}

/**
 * Of the maps of every `stride`-th position, that with the most energy (adaptive polyphase sampling).
 * @param {Tensor} x
 * @param {number} stride
 * @param {Tensor} out overwritten
 * @returns {[number, number]} at which row and column that map begins
 */
export function sample(x, stride, out) {
  const [channels, height, width] = x.shape
  const energies = new Float64Array(stride * stride)
  for (let c = 0, at = 0; c < channels; c++) {
    for (let y = 0; y < height; y++) {
      for (let q = 0; q < width; q++, at++) energies[(y % stride) * stride + (q % stride)] += x.data[at] ** 2
    }
  }
  const best = energies.indexOf(Math.max(...energies))
  const [top, left] = [Math.floor(best / stride), best % stride]
  const [, rows, columns] = out.shape
  for (let c = 0, at = 0; c < channels; c++) {
    for (let y = 0; y < rows; y++) {
      const row = (c * height + y * stride + top) * width + left
      for (let q = 0; q < columns; q++, at++) out.data[at] = x.data[row + q * stride]
    }
  }
  return [top, left]
}

/**
 * Each channel with mean 0 and variance 1: `torch.nn.InstanceNorm2d`.
 * @param {Tensor} x
 * @param {Tensor} out overwritten
 */
export function normalize(x, out) {
  const size = x.shape[1] * x.shape[2]
  for (let from = 0; from < x.data.length; from += size) {
    let [mean, variance] = [0, 0]
    for (let i = from; i < from + size; i++) mean += x.data[i] / size
    for (let i = from; i < from + size; i++) variance += (x.data[i] - mean) ** 2 / size
    const factor = 1 / Math.sqrt(variance + 1e-5)
    for (let i = from; i < from + size; i++) out.data[i] = (x.data[i] - mean) * factor
  }
}

/**
 * One value for each channel: the mean, or the largest.
 * @param {Tensor} x
 * @param {boolean} largest
 * @param {Tensor} out overwritten
 */
export function poolAll(x, largest, out) {
  const size = x.shape[1] * x.shape[2]
  for (let c = 0; c < out.data.length; c++) {
    let value = largest ? -Infinity : 0
    for (let i = c * size; i < (c + 1) * size; i++) {
      if (!largest) value += x.data[i]
      else if (x.data[i] > value) value = x.data[i]
    }
    out.data[c] = largest ? value : value / size
  }
}

/**
 * A fully connected layer, of all values in a row.
 * @param {Tensor} x
 * @param {Float64Array} weight
 * @param {Float64Array} bias
 * @param {Tensor} out overwritten
 */
export function connect(x, weight, bias, out) {
  for (let o = 0, k = 0; o < out.data.length; o++) {
    let sum = bias[o]
    for (let i = 0; i < x.data.length; i++, k++) sum += weight[k] * x.data[i]
    out.data[o] = sum
  }
}

/**
 * Each position several times, side by side.
 * @param {Tensor} x
 * @param {number} factor
 * @param {Tensor} out overwritten
 */
export function upsample(x, factor, out) {
  const [, height, width] = x.shape
  const [channels, rows, columns] = out.shape
  for (let c = 0, at = 0; c < channels; c++) {
    for (let y = 0; y < rows; y++) {
      const row = (c * height + Math.floor(y / factor)) * width
      for (let q = 0; q < columns; q++, at++) out.data[at] = x.data[row + Math.floor(q / factor)]
    }
  }
}
