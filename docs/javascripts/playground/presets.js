// Networks to begin with, and what to try to build.

import { parse } from "./blocks.js"

/** @typedef {import("./blocks.js").Block} Block */

/**
 * @typedef {object} Preset
 * @property {string} label
 * @property {string} net as in an address
 * @property {boolean} wrap whether it is best seen with what leaves the frame entering on the other side
 * @property {string} says what to see
 * @property {string} [trained] the network of the lab that it is, for which there are trained weights
 */

/** @type {Record<string, Preset>} */
export const PRESETS = {
  given: {
    ...{ label: "the exercise's", net: "conv.1.2.1.none.1,relu,linear.10", wrap: false, trained: "given" },
    says: "The exercise's network. The convolution moves along; each position has weights of its own in the last block.",
  },
  pooled: {
    label: "with pooling",
    net: "conv.16.3.1.none.1,relu,max.2.2,conv.32.3.1.none.1,relu,max.2.2,linear.64,relu,linear.10",
    ...{ wrap: false, trained: "pooled" },
    says: "Two poolings: behind the first, only shifts by even pixels are exact, behind the second by multiples of four.",
  },
  circular: {
    ...{ label: "all circular", net: "conv.4.3.1.circular.1,relu,conv.8.3.1.circular.1,relu", wrap: true },
    says: "Padding that goes round, and a shift that does too: every map is exact, to its very edge.",
  },
  blurred: {
    label: "anti-aliased",
    net: "conv.4.3.1.circular.1,relu,blur.3.2.circular,conv.8.3.1.circular.1,relu,blur.3.2.circular",
    wrap: true,
    says: "Each stride blurs first. At odd shifts the error is smaller than without the blur, but it is not zero.",
  },
  strided: {
    ...{ label: "strided", net: "conv.4.3.2.zeros.1,relu,conv.8.3.2.zeros.1,relu", wrap: false },
    says: "Convolutions with a stride of two: only shifts by multiples of two, then of four, are exact.",
  },
  invariant: {
    label: "truly invariant",
    net: "conv.8.3.1.circular.1,relu,conv.8.3.1.circular.1,relu,gmp,linear.10",
    wrap: true,
    says: "A global maximum behind maps that move along exactly: all that follows stays the same, at every shift.",
  },
  unet: {
    label: "small U-Net",
    net: "conv.4.3.1.zeros.1,relu,max.2.2,conv.8.3.1.zeros.1,relu,up.2,cat.2,conv.4.3.1.zeros.1,relu",
    wrap: false,
    says: "Down and up again, beside what was there before: the last map has a step of one pixel, but a period of two.",
  },
}

/** @typedef {"invariant" | "odd" | "interior"} Goal */

/**
 * @typedef {object} Challenge
 * @property {Goal} goal
 * @property {string} title
 * @property {string} text
 * @property {string} start
 * @property {boolean} wrap
 * @property {readonly string[]} hints
 * @property {string} solution
 * @property {string} lesson
 */

/** @type {readonly Challenge[]} */
export const CHALLENGES = [
  {
    goal: "invariant",
    title: "Invariant to every shift",
    text: "Make the output exactly the same at every shift, with what leaves the frame entering on the other side.",
    ...{ start: "conv.4.3.1.none.1,relu,linear.10", wrap: true },
    hints: [
      "The last block has weights of its own for each position. What could stand in front of it, that gives the positions up?",
      "A global maximum takes what is anywhere. It is invariant if the map in front of it moves along exactly, to its very edge.",
      "Without padding, a map ends at the frame. Which padding has no end?",
    ],
    solution: "conv.4.3.1.circular.1,relu,gmp,linear.10",
    lesson: "Equivariant blocks, then something global: that is the sense in which a network can be invariant.",
  },
  {
    goal: "odd",
    title: "Exact at odd shifts, with a stride",
    text: "Use a stride of at least two, and make the last block exact at odd shifts too. What leaves the frame enters on the other side.",
    ...{ start: "conv.4.3.2.circular.1,relu", wrap: true },
    hints: [
      "A stride keeps every second position: which ones it keeps does not move along with the digit. Blur makes that error smaller, not zero.",
      "What if the data chose the positions that are kept?",
      "Or give the positions up: is the average of averages not simply the average?",
    ],
    solution: "conv.4.3.1.circular.1,relu,aps.2,conv.8.3.1.circular.1,relu",
    lesson: "A stride breaks equivariance because it keeps the same positions whatever the image is. It need not.",
  },
  {
    goal: "interior",
    title: "Break a padded network’s interior",
    text: "This network pads with zeros; away from the border, each map is exact at every shift. Break that as well, with no stride, and keep the padding and the positions.",
    ...{ start: "conv.4.3.1.zeros.1,relu,conv.4.3.1.zeros.1,relu", wrap: false },
    hints: [
      "An interior is what has not seen the border. How could a value in the middle come to depend on the border?",
      "Which block looks at all positions, and still returns a map?",
    ],
    solution: "conv.4.3.1.zeros.1,relu,norm,conv.4.3.1.zeros.1,relu",
    lesson: "A global operation brings the border into every value. It is as good as any other on a circle, and only there.",
  },
]

/**
 * The preset that some blocks are; null if they are none.
 * @param {string} net
 */
export function presetOf(net) {
  return Object.keys(PRESETS).find((name) => PRESETS[name].net === net) ?? null
}

/** @param {string} name */
export function blocksOf(name) {
  return parse(PRESETS[name].net)
}
