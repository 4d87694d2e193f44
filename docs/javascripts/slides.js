// Slides by keyboard; the address names the slide. Without this script they scroll, one at a time.
{
  const slides = /** @type {HTMLElement[]} */ ([...document.querySelectorAll(".slide")])
  const NEXT = ["ArrowRight", "ArrowDown", "PageDown", "Enter", " "]
  const BACK = ["ArrowLeft", "ArrowUp", "PageUp", "Backspace"]

  const current = () => {
    const middles = slides.map((slide) => {
      const { top, bottom } = slide.getBoundingClientRect()
      return Math.abs((top + bottom) / 2 - innerHeight / 2)
    })
    return middles.indexOf(Math.min(...middles))
  }

  /** @param {number} number from 0 */
  const go = (number) => {
    const slide = slides[Math.max(0, Math.min(number, slides.length - 1))]
    slide.scrollIntoView({ behavior: "instant" })
    history.replaceState(null, "", `#${slide.id}`)
  }

  /** @param {KeyboardEvent} event @returns {number | null} where the key leads */
  const target = ({ key, shiftKey }) => {
    if (key === "Home") return 0
    if (key === "End") return slides.length - 1
    if (BACK.includes(key) || (key === " " && shiftKey)) return current() - 1
    return NEXT.includes(key) ? current() + 1 : null
  }

  addEventListener("keydown", (event) => {
    const inside = event.target instanceof Element && event.target.closest("a, button")
    if (event.ctrlKey || event.metaKey || event.altKey || (inside && ["Enter", " "].includes(event.key))) return
    if (event.key === "f") return void (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen())
    const number = target(event)
    if (number === null) return
    event.preventDefault()
    go(number)
  })
  for (const button of document.querySelectorAll("button[data-go]")) {
    button.addEventListener("click", () => go(current() + Number(button.getAttribute("data-go"))))
  }
}
