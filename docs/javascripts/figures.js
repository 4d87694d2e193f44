// A figure over the whole window: by a click on it, or by its button. Escape, or another click, closes it.
const figures = [...document.querySelectorAll(".md-typeset .nb-figure:has(.nb-enlarge)")]
if (figures.length && typeof HTMLDialogElement === "function") {
  const dialog = document.createElement("dialog")
  dialog.className = "nb-zoom md-typeset"
  dialog.innerHTML = `<button type="button" class="nb-close" aria-label="Close">✕</button><div class="nb-zoomed" tabindex="0"></div><p></p>`
  const [close, stage, caption] = dialog.children
  document.body.append(dialog)
  let putBack = () => {}

  const open = (figure, button) => {
    const svg = figure.querySelector(".nb-svg > svg")
    const home = svg.parentElement
    const { width, height } = svg.getBoundingClientRect()
    const [left, room] = [home.scrollLeft, document.createElement("div")]
    room.style.cssText = `width: ${width}px; height: ${height}px; margin: 0 auto`
    svg.replaceWith(room) // moved, not copied: what it refers to by id stays the only one
    stage.replaceChildren(svg)
    stage.setAttribute("role", "img")
    stage.setAttribute("aria-label", home.getAttribute("aria-label"))
    stage.style.setProperty("--shape", width / height)
    caption.innerHTML = figure.querySelector("figcaption")?.innerHTML ?? ""
    putBack = () => {
      room.replaceWith(svg)
      home.scrollLeft = left
      button.focus({ preventScroll: true })
    }
    dialog.showModal()
    close.focus()
  }

  for (const figure of figures) {
    const button = figure.querySelector(".nb-enlarge")
    button.addEventListener("click", () => open(figure, button))
    figure.querySelector(".nb-svg").addEventListener("click", () => open(figure, button))
  }
  dialog.addEventListener("click", ({ target }) => {
    if (!(target instanceof HTMLAnchorElement)) dialog.close()
  })
  dialog.addEventListener("close", () => {
    putBack()
    stage.replaceChildren()
  })
  addEventListener("beforeprint", () => dialog.close())
}
