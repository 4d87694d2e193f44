// Weights by seed. The same numbers come out of PyTorch: `pytorch.js` writes these lines in Python.

/**
 * Numbers between -1 and 1, of 24 bits, so that float32 holds them: mulberry32, all in 32-bit integers.
 * @param {number} seed
 * @returns {() => number} the next one
 */
export function uniform(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 8) / 2 ** 23 - 1
  }
}

/**
 * Fill weights, then biases, in the order of the blocks: ±√(6 / n) and ±1 / √n, where a sum has n terms.
 * @param {readonly ({ weight: Float64Array, bias: Float64Array } | null)[]} all
 * @param {number} seed
 */
export function fill(all, seed) {
  const next = uniform(seed)
  for (const one of all) {
    if (!one) continue
    const terms = one.weight.length / one.bias.length
    for (let i = 0; i < one.weight.length; i++) one.weight[i] = Math.fround(next() * Math.sqrt(6 / terms))
    for (let i = 0; i < one.bias.length; i++) one.bias[i] = Math.fround(next() * (1 / Math.sqrt(terms)))
  }
}
