// The reader's answers, in this browser's storage under one key. Storage that is off, full or holds garbage is no
// storage: the page works, and says nothing.

/** @typedef {Record<string, string[]>} Answers by the question's name; what was answered, from the first to the last */
/** @typedef {{ edition: string, count: number }} Edition a digest of a page's questions, and how many they are */
/** @typedef {Record<string, Edition>} Editions by page */
/** @typedef {{ edition: string, answers: Answers }} Kept */

const KEY = "equivariance-lab.answers"

/**
 * All that is kept, of whatever edition.
 * @returns {Record<string, Kept>} by page
 */
function read() {
  /** @type {Record<string, Kept>} */
  const pages = {}
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}")
    for (const [page, value] of Object.entries(kept)) if (isKept(value)) pages[page] = value
  } catch {
    // nothing that could be read
  }
  return pages
}

/**
 * @param {any} value
 * @returns {value is Kept}
 */
function isKept(value) {
  if (typeof value?.edition !== "string" || value.answers?.constructor !== Object) return false
  const tries = Object.values(value.answers)
  return tries.every((each) => Array.isArray(each) && each.length && each.every((one) => typeof one === "string"))
}

/** @param {Record<string, Kept>} pages */
function write(pages) {
  try {
    if (Object.keys(pages).length) localStorage.setItem(KEY, JSON.stringify(pages))
    else localStorage.removeItem(KEY)
  } catch {
    // not kept
  }
}

/**
 * The answers to this edition of a page's questions.
 * @param {string} page
 * @param {string} edition
 * @returns {Answers}
 */
export function load(page, edition) {
  const kept = read()[page]
  return kept?.edition === edition ? kept.answers : {}
}

/**
 * Keep a page's answers; those of other pages, also such as another tab has just given, stay.
 * @param {string} page
 * @param {string} edition
 * @param {Answers} answers
 */
export function save(page, edition, answers) {
  write({ ...read(), [page]: { edition, answers } })
}

/**
 * Forget the answers on a page, or all.
 * @param {string | null} page
 */
export function erase(page) {
  const pages = page === null ? {} : read()
  if (page !== null) delete pages[page]
  write(pages)
}

/**
 * The pages whose questions are all answered, in this edition.
 * @param {Editions} editions
 * @returns {string[]}
 */
export function finished(editions) {
  const pages = read()
  return Object.entries(editions)
    .filter(([page, { edition, count }]) => {
      const kept = Object.hasOwn(pages, page) ? pages[page] : null
      return kept?.edition === edition && Object.keys(kept.answers).length >= count
    })
    .map(([page]) => page)
}
