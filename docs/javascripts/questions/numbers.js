// Numbers as people type them.

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?$/i

/**
 * @param {string} text such as "0.3", "0,3", ".3", "30 %" or "1e-7", with or without the unit
 * @param {string} unit of the number that is asked for; "" if it has none
 * @returns {number | string} a number in that unit, or one line on what is wrong
 */
export function parseNumber(text, unit) {
  let typed = text.replace(/\s/g, "").replace(/[−–]/g, "-")
  const suffix = unit.replace(/\s/g, "")
  if (!typed) return "Type a number first, or open what is observed without an answer."
  if (suffix && typed.endsWith(suffix)) typed = typed.slice(0, -suffix.length)
  const percent = !suffix && typed.endsWith("%")
  if (percent) typed = typed.slice(0, -1)
  if (/^[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?$/.test(typed)) {
    return `Is the comma in “${text.trim()}” a decimal point? Write the number without it, or with a point.`
  }
  const number = typed.replace(",", ".")
  if (!NUMBER.test(number) || !Number.isFinite(Number(number))) {
    return `“${text.trim()}” is not a number${unit && ` in ${unit}`}. Write it like 3, 0.3 or 1e-7.`
  }
  return percent ? Number(`${number}e-2`) || Number(number) / 100 : Number(number)
}

/**
 * @param {number} number
 * @param {number} low
 * @param {number} high
 * @returns {"right" | "too low" | "too high"}
 */
export function judge(number, low, high) {
  if (number < low) return "too low"
  return number > high ? "too high" : "right"
}

/**
 * What stands at the end of a page.
 * @param {{ right: boolean, answered: boolean }[]} predictions
 * @param {{ right: boolean, answered: boolean }[]} questions
 */
export function score(predictions, questions) {
  const all = [...predictions, ...questions]
  const open = all.filter(({ answered }) => !answered).length
  if (open === all.length) return "You have not answered any question on this page yet."
  const parts = [
    ...share(predictions, "prediction", "right"),
    ...share(questions, "question", "right at the first try"),
  ]
  return `${parts.join(", ")}${open ? `; ${open} not answered yet` : ""}.`
}

/**
 * @param {{ right: boolean }[]} group
 * @param {string} what
 * @param {string} how
 */
function share(group, what, how) {
  const right = group.filter((each) => each.right).length
  return group.length ? [`${right} of ${group.length} ${what}${group.length > 1 ? "s" : ""} ${how}`] : []
}
