// What the network says of x and of T x: ten classes, a labelled bar for each.

import { find, write } from "./view.js"

/** The table of `SAYS`. */
export class Says {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.rows = [...root.querySelectorAll("tbody tr")].map((row) =>
      [...row.querySelectorAll("td")].map((cell) => ({ cell, number: find(cell, "b", HTMLElement) })),
    )
  }

  /** @param {readonly ArrayLike<number>[]} shares of x, then of T x: the probability of each class */
  show(shares) {
    const best = shares.map((share) => Math.max(...Array.from(share)))
    this.rows.forEach((cells, k) =>
      cells.forEach(({ cell, number }, i) => {
        cell.style.setProperty("--share", shares[i][k].toFixed(3))
        cell.toggleAttribute("data-best", shares[i][k] === best[i])
        write(number, String(Math.round(100 * shares[i][k])))
      }),
    )
  }
}
