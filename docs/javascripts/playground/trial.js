// A challenge: its text, its hints, and the judgement, which is made while nothing else is to be done.

import { find, write } from "../live/view.js"
import { judge } from "./judging.js"
import { CHALLENGES } from "./presets.js"
import { Probe } from "./verdicts.js"

/** @typedef {import("./chain.js").Chain} Chain */
/** @typedef {Parameters<Probe["take"]>} Given */

const PATIENCE = 6 // milliseconds of a frame

export class Trial {
  /**
   * @param {HTMLElement} root
   * @param {{ build: (net: string) => void, busy: () => boolean }} tell
   */
  constructor(root, tell) {
    this.tell = tell
    this.panel = find(root, ".net-challenge", HTMLElement)
    this.task = find(root, ".net-task", HTMLElement)
    this.judged = find(root, ".net-judged", HTMLElement)
    this.hints = find(root, ".net-hints", HTMLElement)
    this.number = 0
    this.job = 0
    /** @type {(() => void) | null} */
    this.again = null
  }

  get challenge() {
    return CHALLENGES[this.number - 1]
  }

  /** @param {number} number from 1; 0 for none */
  take(number) {
    if (this.number === number) return
    this.number = number
    this.panel.hidden = !number
    this.hints.replaceChildren()
    if (number) write(this.task, this.challenge.text)
    this.again?.()
  }

  /** @param {(wrap: boolean) => void} enter is told what has to enter the frame */
  restart(enter) {
    enter(this.challenge.wrap)
    this.hints.replaceChildren()
    this.tell.build(this.challenge.start)
  }

  hint() {
    const text = this.challenge.hints[this.hints.children.length]
    if (!text) return
    const item = document.createElement("li")
    item.textContent = text
    this.hints.append(item)
  }

  solve() {
    this.tell.build(this.challenge.solution)
  }

  /**
   * Judge a network, for a digit.
   * @param {Chain} chain
   * @param {Readonly<Given>} given
   */
  start(chain, given) {
    this.again = () => this.start(chain, given)
    cancelAnimationFrame(this.job)
    this.job = 0
    if (!this.number) return
    const probe = new Probe(chain)
    probe.take(...given)
    const steps = judge(this.challenge.goal, probe)
    const go = () => {
      const end = performance.now() + PATIENCE
      let step = null
      while (!this.tell.busy() && performance.now() < end && !step?.done) step = steps.next()
      if (step) this.say(step.value)
      this.job = step?.done ? 0 : requestAnimationFrame(go)
    }
    this.job = requestAnimationFrame(go)
  }

  /** @param {import("./judging.js").Judgement} judgement */
  say({ solved, says, seen, of }) {
    this.panel.dataset.solved = String(solved)
    const { lesson, goal } = this.challenge
    const done = goal === "interior" ? `broken at ${seen} of ${of} large shifts` : `exact at all ${goal === "odd" ? "odd " : ""}shifts by theory, and at ${seen} of ${of} on this digit`
    write(this.judged, solved ? `Solved: ${done}. ${lesson}` : says)
  }
}
