// Files of the network, from beside the page: checked, whole, or an error that says which.

/** @typedef {import("./network.js").Description} Description */

/**
 * @typedef {object} Manifest
 * @property {string} schema
 * @property {{ name: string, test_images: number }} data
 * @property {number} seed
 * @property {{ mean: number, std: number }} normalisation
 * @property {{ file: string, bytes: number, sha256: string, labels: number[], indices: number[] }} digits
 * @property {Description[]} networks
 */

const SCHEMA = "equivariance-lab/export/1"

/** A file that is not there, or not what it was. */
export class LoadError extends Error {}

/**
 * @param {URL} folder
 * @returns {Promise<Manifest>}
 */
export async function loadManifest(folder) {
  const text = new TextDecoder().decode(await read(folder, "manifest.json"))
  try {
    const manifest = JSON.parse(text)
    if (manifest.schema === SCHEMA && manifest.digits && Array.isArray(manifest.networks)) return manifest
  } catch {
    // not JSON: said below
  }
  throw new LoadError("manifest.json is damaged, or of another version")
}

/**
 * A file that the manifest describes.
 * @param {URL} folder
 * @param {{ file: string, bytes: number, sha256: string }} expected
 * @returns {Promise<Uint8Array>}
 */
export async function loadFile(folder, { file, bytes, sha256 }) {
  const content = await read(folder, file)
  if (content.length !== bytes) throw new LoadError(`${file} has ${content.length} bytes instead of ${bytes}`)
  if (crypto.subtle) {
    // only where the page came by a way that could not change it: https, localhost, a folder
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content))
    const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("")
    if (found !== sha256) throw new LoadError(`${file} is damaged: its SHA-256 differs`)
  }
  return content
}

/**
 * @param {URL} folder
 * @param {string} file
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
async function read(folder, file) {
  if (location.protocol === "file:") return readFromScript(folder, file)
  let response
  try {
    response = await fetch(new URL(file, folder))
  } catch {
    throw new LoadError(`${file} cannot be loaded, maybe for lack of a connection`)
  }
  if (!response.ok) throw new LoadError(`${file} cannot be loaded: ${response.status} ${response.statusText}`.trim())
  return new Uint8Array(await response.arrayBuffer())
}

/**
 * From a folder, a page may not fetch, but may run a script, which the site's build has put beside each file.
 * @param {URL} folder
 * @param {string} file
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
function readFromScript(folder, file) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script")
    script.src = new URL(`${file}.js`, folder).href
    script.onerror = () => reject(new LoadError(`${file} cannot be loaded`))
    script.onload = () => {
      script.remove()
      const { liveLabFiles = {} } = /** @type {{ liveLabFiles?: Record<string, string> }} */ (globalThis)
      try {
        resolve(Uint8Array.from(atob(liveLabFiles[file]), (character) => character.charCodeAt(0)))
      } catch {
        reject(new LoadError(`${file} is damaged`))
      }
      delete liveLabFiles[file]
    }
    document.head.append(script)
  })
}

/** @param {unknown} error */
export function reason(error) {
  return error instanceof Error ? error.message : String(error)
}
