// The films of a page: a slider and a button that move a mark along the curves and show the pictures at its place.
// Without this script, the curves and three stills are there.

/** @typedef {{ unit: string, at: number[], readings: [string, string[]][], x: number[] }} Film */

(() => {
  const FRAME = 300 // milliseconds
  const calm = matchMedia("(prefers-reduced-motion: reduce)")

  /**
   * The only element that fits, or an error that says which is missing.
   * @template {Element} T
   * @param {Element} root
   * @param {string} selector
   * @param {new (...args: any[]) => T} type
   * @returns {T}
   */
  function find(root, selector, type) {
    const found = root.querySelector(selector)
    if (!(found instanceof type)) throw new Error(`the film has no ${selector}`)
    return found
  }

  /**
   * Wake one film up.
   * @param {HTMLElement} root
   */
  function start(root) {
    /** @type {Film} */
    const film = JSON.parse(root.dataset.film ?? "")
    const last = film.at.length - 1
    const controls = find(root, ".nb-film-controls", HTMLElement)
    const button = find(controls, "button", HTMLButtonElement)
    const slider = find(controls, "input", HTMLInputElement)
    const values = [...controls.querySelectorAll("dd")]
    const mark = find(root, ".nb-film-mark", SVGLineElement)
    const width = mark.ownerSVGElement?.viewBox.baseVal.width ?? 0
    const screen = /** @type {HTMLElement} */ (find(root, ".nb-film-frame", HTMLElement).cloneNode(true))
    const pictures = [...screen.querySelectorAll("svg")]
    const titles = pictures.map((picture) => picture.nextElementSibling?.textContent ?? "")
    /** @type {ReturnType<typeof setInterval> | undefined} */
    let clock

    const show = () => {
      const k = slider.valueAsNumber
      const place = film.at[k].toLocaleString("en")
      const readings = film.readings.map(([name, texts]) => `${name} ${texts[k]}`)
      slider.setAttribute("aria-valuetext", `${place}: ${readings.join(", ")}`)
      const texts = [place, ...film.readings.map(([, texts]) => texts[k])]
      for (const [i, text] of texts.entries()) values[i].textContent = text
      for (const end of ["x1", "x2"]) mark.setAttribute(end, String(film.x[k] * width))
      for (const [i, picture] of pictures.entries()) {
        const { width, height } = picture.viewBox.baseVal
        picture.setAttribute("viewBox", `0 ${k * height} ${width} ${height}`)
        picture.setAttribute("aria-label", `${titles[i]}, ${film.unit} ${place}`)
      }
    }

    const stop = () => {
      clearInterval(clock)
      clock = undefined
      button.textContent = calm.matches ? "Next" : "Play"
    }

    const next = () => {
      slider.valueAsNumber = slider.valueAsNumber === last ? 0 : slider.valueAsNumber + 1
      show()
    }

    const play = () => {
      button.textContent = "Pause"
      next()
      clock = setInterval(() => {
        next()
        if (slider.valueAsNumber === last) stop()
      }, FRAME)
    }

    button.addEventListener("click", () => {
      if (clock !== undefined) stop()
      else if (calm.matches) next() // who wants less motion goes on frame by frame
      else play()
    })
    slider.addEventListener("input", () => {
      stop()
      show()
    })
    calm.addEventListener("change", stop)
    document.addEventListener("visibilitychange", stop)

    find(screen, "p", HTMLElement).remove() // its words are in the readings
    screen.classList.add("nb-film-screen")
    controls.after(screen)
    slider.valueAsNumber = 0 // a browser may restore where the slider was
    stop()
    show()
    controls.hidden = false
    root.classList.add("nb-film-live")
  }

  for (const root of document.querySelectorAll(".nb-film")) if (root instanceof HTMLElement) start(root)
})()
