// Predictions and quizzes: what the reader answers is judged, kept, and counted.

import { erase, finished, load, save } from "./answers.js"
import { EDITIONS } from "./editions.js"
import { judge, parseNumber, score } from "./numbers.js"

const UNSEEN = "ask-unseen"

/**
 * @template {Element} T
 * @param {ParentNode} root
 * @param {string} selector
 * @param {new () => T} type
 * @returns {T} the first such element; it must be there
 */
function find(root, selector, type) {
  const found = root.querySelector(selector)
  if (!(found instanceof type)) throw new Error(`no ${selector}`)
  return found
}

/**
 * @param {string} tag
 * @param {string} className
 * @param {...(Node | string)} children
 */
function make(tag, className, ...children) {
  const element = document.createElement(tag)
  if (className) element.className = className
  element.append(...children)
  return element
}

/** What a question's box has in any case: its fields, the button, and the line below. */
class Question {
  /** @param {HTMLElement} box */
  constructor(box) {
    this.box = box
    this.name = box.id
    this.inputs = [...box.querySelectorAll("input")]
    this.check = find(box, ".ask-check", HTMLButtonElement)
    this.verdict = find(box, ".ask-verdict", HTMLElement)
    /** @type {(given: string) => void} */
    this.given = () => {}
    this.check.onclick = () => this.ask()
    for (const input of this.inputs) {
      input.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || event.isComposing) return
        event.preventDefault() // it would also press what gets the focus now
        this.ask()
      })
    }
  }

  /** Whether the reader's first answer was right. */
  right = false
  answered = false

  /** What is chosen or typed; null where nothing is. */
  get input() {
    if (this.inputs[0].type === "text") return this.inputs[0].value
    return this.inputs.find(({ checked }) => checked)?.value ?? null
  }

  ask() {
    const given = this.input
    const problem = given === null ? "Pick an answer first." : this.problem(given)
    if (given === null || problem) {
      this.say(problem)
      if (this.inputs[0].type === "text") this.inputs[0].setAttribute("aria-invalid", "true")
      this.inputs[0].focus()
      return
    }
    this.show(given)
    this.given(given)
  }

  /**
   * Why an answer cannot be judged; empty where it can.
   * @param {string} given
   * @returns {string}
   */
  problem(given) {
    return this.inputs.some(({ value }) => value === given) ? "" : "This is none of the choices."
  }

  /**
   * The answers kept from another visit; such as fit no longer are left out.
   * @param {string[]} given
   */
  restore(given) {
    for (const each of given) if (!this.problem(each)) this.show(each)
  }

  /** @param {string} _given */
  show(_given) {}

  reset() {
    this.right = this.answered = false
    this.say("")
    for (const input of this.inputs) {
      if (input.type === "text") input.value = ""
      input.checked = input.disabled = false
      input.removeAttribute("aria-invalid")
    }
    this.check.hidden = false
    delete this.box.dataset.answered
  }

  /**
   * @param {...(Node | string)} words
   */
  say(...words) {
    this.verdict.replaceChildren(...words)
  }

  /** @param {string} value */
  choice(value) {
    const input = this.inputs.find((each) => each.value === value)
    return [...(input?.nextElementSibling?.childNodes ?? [])].map((node) => node.cloneNode(true))
  }
}

/** A question whose answer opens what is observed. It counts once. */
class Prediction extends Question {
  /** @param {HTMLElement} box */
  constructor(box) {
    super(box)
    this.observed = find(document, `#${box.id.replace("predict", "observed")}`, HTMLElement)
    const hidden = this.observed.closest("details")
    if (!hidden) throw new Error(`${box.id} hides nothing`)
    this.hidden = hidden
    this.summary = find(hidden, "summary", HTMLElement)
    this.values = find(this.observed, ".observed-values", HTMLElement)
    this.number = this.inputs[0].type === "text"
    this.summary.textContent = "Show without answering"
  }

  /** @param {string} given */
  problem(given) {
    if (!this.number) return super.problem(given)
    const number = parseNumber(given, this.observed.dataset.unit ?? "")
    return typeof number === "string" ? number : ""
  }

  /** @param {string} given */
  judged(given) {
    const { right, low, high, unit } = this.observed.dataset
    if (!this.number) return given === right ? "right" : "not right"
    return judge(Number(parseNumber(given, unit ?? "")), Number(low), Number(high))
  }

  /** @param {string} given */
  words(given) {
    if (!this.number) return this.choice(given)
    const unit = this.observed.dataset.unit ?? ""
    const typed = given.trim()
    return [unit && !typed.endsWith(unit) ? `${typed}${unit === "%" ? "" : "\u00a0"}${unit}` : typed]
  }

  /** @param {string} given */
  show(given) {
    const verdict = this.judged(given)
    const focused = this.box.contains(document.activeElement)
    this.answered = true
    this.right = verdict === "right"
    this.hidden.open = true
    this.summary.textContent = "What is observed"
    for (const input of this.inputs) {
      if (this.number) input.value = given
      input.checked = input.value === given
      input.disabled = true
      input.removeAttribute("aria-invalid")
    }
    this.check.hidden = true
    this.box.dataset.answered = this.right ? "right" : "wrong"
    const said = this.right ? "✓ Right." : `✗ ${verdict[0].toUpperCase()}${verdict.slice(1)}.`
    const why = make("a", "", "Why?")
    why.setAttribute("href", `#${this.observed.id}`)
    this.say(make("b", "", said), " Observed: ", ...this.result(), ". ", why)
    const yours = make("p", "observed-yours", make("b", "ask-kind", "Your prediction"), " ")
    const mark = make("b", "observed-mark", `${this.right ? "✓" : "✗"} ${verdict}`)
    yours.append(make("span", "", ...this.words(given)), " ", mark)
    this.values.querySelector(".observed-yours")?.remove()
    this.values.prepend(yours)
    if (focused) this.summary.focus({ preventScroll: true })
  }

  /** What is observed, without the note on how far off a number may be. */
  result() {
    const shown = find(this.values, ".observed-value > span", HTMLElement).cloneNode(true)
    if (shown instanceof HTMLElement) shown.querySelector("small")?.remove()
    return [...shown.childNodes]
  }

  reset() {
    super.reset()
    this.hidden.open = false
    this.summary.textContent = "Show without answering"
    this.values.querySelector(".observed-yours")?.remove()
  }
}

/** A question with a reason for each answer. All may be tried; the first counts. */
class QuizQuestion extends Question {
  /** @param {string} given */
  show(given) {
    const input = this.inputs.find(({ value }) => value === given)
    const right = input?.dataset.right !== undefined
    if (!this.answered) this.right = right
    this.answered = true
    for (const each of this.inputs) each.checked = each.value === given
    const why = input?.closest(".ask-choice")?.nextElementSibling
    this.box.dataset.answered = right ? "right" : "wrong"
    this.say(...[...(why?.childNodes ?? [])].map((node) => node.cloneNode(true)))
    if (!right) this.verdict.append(" You can try again.")
  }
}

/** The score, and the buttons that erase. */
class Page {
  /** @param {HTMLElement} end */
  constructor(end) {
    this.end = end
    this.page = end.dataset.page ?? ""
    this.edition = end.dataset.edition ?? ""
    const boxes = [...document.querySelectorAll(".ask")].filter((box) => box instanceof HTMLElement)
    this.predictions = boxes.filter((box) => box.matches(".ask-predict")).map((box) => new Prediction(box))
    this.quiz = boxes.filter((box) => box.matches(".quiz")).map((box) => new QuizQuestion(box))
    this.all = [...this.predictions, ...this.quiz]
    this.answers = load(this.page, this.edition)
    for (const question of this.all) {
      if (Object.hasOwn(this.answers, question.name)) question.restore(this.answers[question.name])
      question.given = (given) => this.keep(question, given)
    }
    for (const button of end.querySelectorAll("button")) {
      button.onclick = () => this.erase(button.dataset.erase === "all" ? null : this.page)
    }
    end.hidden = false
    this.count()
  }

  /**
   * @param {Question} question
   * @param {string} given
   */
  keep(question, given) {
    const before = Object.hasOwn(this.answers, question.name) ? this.answers[question.name] : []
    const others = before.filter((each, place) => each !== given || place === 0)
    this.answers = { ...this.answers, [question.name]: [...others, given] }
    save(this.page, this.edition, this.answers)
    this.count()
  }

  /** @param {string | null} page */
  erase(page) {
    erase(page)
    this.answers = {}
    for (const question of this.all) question.reset()
    this.count()
    find(this.end, "[role=status]", HTMLElement).textContent =
      page === null ? "Those on all pages are erased." : "Those on this page are erased."
  }

  count() {
    find(this.end, ".answers-score", HTMLElement).textContent = score(this.predictions, this.quiz)
    find(this.end, "[role=status]", HTMLElement).textContent = ""
    tick()
  }
}

/** Marks the pages in the navigation whose questions are all answered. */
function tick() {
  document.querySelectorAll(".ask-tick").forEach((mark) => mark.remove())
  const done = finished(EDITIONS)
  for (const link of document.querySelectorAll(".md-nav--primary .md-nav__link")) {
    const current = link.matches("label[for=__toc]") // on a phone, the page that is open
    if (!current && !(link instanceof HTMLAnchorElement && !link.hash)) continue
    const { pathname } = link instanceof HTMLAnchorElement ? link : location
    const [, page] = /walkthroughs\/([^/]+)\.html$/.exec(pathname) ?? []
    if (!page || !done.includes(page)) continue
    link.append(make("span", "ask-tick", "✓", make("span", UNSEEN, " all questions answered")))
  }
}

const end = document.querySelector(".answers")
document.documentElement.classList.add("asks")
if (end instanceof HTMLElement) new Page(end)
else tick()
