// The filter of the results page. Without it, all rows are there.
const filter = document.querySelector(".nb-filter")
if (filter) {
  const input = filter.querySelector("input")
  const selects = [...filter.querySelectorAll("select")]
  const status = filter.querySelector("[role=status]")
  const groups = [...document.querySelectorAll(".nb-results tbody")]
  const rows = [...document.querySelectorAll(".nb-results .nb-claim")]
  const text = new Map(rows.map((row) => [row, `${page(row)} ${row.textContent}`.toLowerCase()]))
  function page(row) {
    return row.parentElement.querySelector(".nb-group").textContent
  }
  const cell = (row, column) => row.querySelector(`[data-label="${column}"]`).textContent
  const apply = () => {
    const words = input.value.toLowerCase().split(/\s+/)
    const chosen = selects.filter((select) => select.value)
    for (const row of rows) {
      row.hidden = !(
        words.every((word) => text.get(row).includes(word)) &&
        chosen.every((select) => cell(row, select.dataset.column) === select.value)
      )
    }
    for (const group of groups) group.hidden = !group.querySelector(".nb-claim:not([hidden])")
    status.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} claims`
  }
  filter.hidden = false
  filter.addEventListener("input", apply)
  filter.addEventListener("reset", () => setTimeout(apply)) // when the fields are empty
  filter.addEventListener("submit", (event) => event.preventDefault())
  apply()
}

// A chapter's small lab: its script is loaded when the reader comes near.
const later = document.querySelector('meta[name="nb-later"]')
if (later) {
  const watch = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return
      watch.disconnect()
      const script = document.createElement("script")
      script.src = later.content
      document.head.append(script)
    },
    { rootMargin: "200px" },
  )
  for (const lab of document.querySelectorAll("live-lab")) watch.observe(lab)
}
