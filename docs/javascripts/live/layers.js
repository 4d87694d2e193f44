// The layers of the two networks. As in PyTorch, except that sums are taken in float64 and rounded once.

/**
 * Activations, or weights.
 * @typedef {object} Tensor
 * @property {Float32Array} data values: channel by channel, then row by row
 * @property {readonly number[]} shape `[channels, height, width]`, or `[features]`
 */

/**
 * A tensor of zeros.
 * @param {readonly number[]} shape
 * @returns {Tensor}
 */
export function zeros(shape) {
  return { data: new Float32Array(shape.reduce((a, b) => a * b, 1)), shape }
}

/**
 * Cross-correlation without padding, of stride 1: `torch.nn.Conv2d`.
 * @param {Tensor} x `[channels, height, width]`
 * @param {Tensor} weight `[outputs, channels, kernel height, kernel width]`
 * @param {Tensor} bias `[outputs]`
 * @param {Tensor} out `[outputs, height - dilation * (kernel height - 1), width - dilation * (kernel width - 1)]`, overwritten
 * @param {number} [dilation]
 * @returns {Tensor} `out`
 */
export function conv2d(x, weight, bias, out, dilation = 1) {
  const [channels, height, width] = x.shape
  const [outputs, , kernelHeight, kernelWidth] = weight.shape
  const [, rows, columns] = out.shape
  // rows as wide as those of x, so that one long loop goes over all of the map; their last values are left out below
  const sums = new Float64Array((rows - 1) * width + columns)
  for (let o = 0, k = 0; o < outputs; o++) {
    sums.fill(bias.data[o])
    for (let c = 0; c < channels; c++) {
      for (let i = 0; i < kernelHeight; i++) {
        for (let j = 0; j < kernelWidth; j++, k++) {
          const factor = weight.data[k]
          const from = (c * height + i * dilation) * width + j * dilation
          for (let p = 0; p < sums.length; p++) sums[p] += factor * x.data[from + p]
        }
      }
    }
    for (let y = 0; y < rows; y++) out.data.set(sums.subarray(y * width, y * width + columns), (o * rows + y) * columns)
  }
  return out
}

/**
 * What is negative becomes 0: `torch.nn.ReLU`.
 * @param {Tensor} x
 * @param {Tensor} out of the same shape, overwritten
 * @returns {Tensor} `out`
 */
export function relu(x, out) {
  for (let i = 0; i < x.data.length; i++) out.data[i] = x.data[i] > 0 ? x.data[i] : 0
  return out
}

/**
 * The largest value of each tile; rows and columns that fill no tile are dropped: `torch.nn.MaxPool2d`.
 * @param {Tensor} x `[channels, height, width]`
 * @param {number} size of a tile, and the stride
 * @param {Tensor} out `[channels, ⌊height / size⌋, ⌊width / size⌋]`, overwritten
 * @returns {Tensor} `out`
 */
export function maxPool2d(x, size, out) {
  const [, height, width] = x.shape
  const [channels, rows, columns] = out.shape
  for (let c = 0, at = 0; c < channels; c++) {
    for (let y = 0; y < rows; y++) {
      for (let q = 0; q < columns; q++, at++) {
        let largest = -Infinity
        for (let i = 0; i < size; i++) {
          const from = (c * height + y * size + i) * width + q * size
          for (let j = 0; j < size; j++) if (x.data[from + j] > largest) largest = x.data[from + j]
        }
        out.data[at] = largest
      }
    }
  }
  return out
}

/**
 * A fully connected layer, of all values of `x` in a row: `torch.nn.Linear`.
 * @param {Tensor} x any shape of as many values as the weights take
 * @param {Tensor} weight `[outputs, inputs]`
 * @param {Tensor} bias `[outputs]`
 * @param {Tensor} out `[outputs]`, overwritten
 * @returns {Tensor} `out`
 */
export function linear(x, weight, bias, out) {
  const [outputs, inputs] = weight.shape
  for (let o = 0, k = 0; o < outputs; o++) {
    let sum = bias.data[o]
    for (let i = 0; i < inputs; i++, k++) sum += weight.data[k] * x.data[i]
    out.data[o] = sum
  }
  return out
}

/**
 * Probabilities of the classes.
 * @param {Tensor} scores `[classes]`
 * @param {Float64Array} out as many, overwritten; they sum to 1
 * @returns {Float64Array} `out`
 */
export function softmax(scores, out) {
  let largest = -Infinity
  for (const score of scores.data) largest = Math.max(largest, score)
  let sum = 0
  for (let i = 0; i < out.length; i++) sum += out[i] = Math.exp(scores.data[i] - largest)
  for (let i = 0; i < out.length; i++) out[i] /= sum
  return out
}
