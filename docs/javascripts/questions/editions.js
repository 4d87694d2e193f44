// Which questions each page has. The build fills this in.

/** @type {import("./answers.js").Editions} */
export const EDITIONS = {}
