// The filter of the results page. Without it, all rows are there.
const filter = document.querySelector(".nb-filter")
if (filter) {
  const input = filter.querySelector("input")
  const status = filter.querySelector("[role=status]")
  const rows = [...document.querySelectorAll(".nb-results tbody tr")]
  const apply = () => {
    const words = input.value.toLowerCase().split(/\s+/)
    const shown = rows.filter((row) => {
      const text = row.textContent.toLowerCase()
      row.hidden = !words.every((word) => text.includes(word))
      return !row.hidden
    })
    status.textContent = `${shown.length} of ${rows.length} claims`
  }
  filter.hidden = false
  input.addEventListener("input", apply)
  apply()
}
