/** A bundle's folder on disk. */

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readFile, realpath, stat } from "node:fs/promises";
import path from "node:path";

import { RunError } from "../web/host/errors.js";
import { MANIFEST } from "../web/host/manifest.js";

/** Files of one folder; no link leads out of it. Implements `Files` of the manifest's module. */
export class Folder {
  #root;

  /** @param {string} folder or its bundle.json */
  constructor(folder) {
    const named = path.resolve(folder);
    this.#root = path.basename(named) === MANIFEST ? path.dirname(named) : named;
    this.name = folder;
  }

  /** @returns {Promise<Uint8Array | null>} null where there is no such file */
  async read(name) {
    const file = await this.path(name);
    return file && new Uint8Array(await readFile(file));
  }

  /** Where a file lies; null where there is none. */
  async path(name) {
    const file = path.join(this.#root, name);
    const target = await realpath(file).catch(() => null);
    if (target === null || !(await stat(target)).isFile()) return null;
    const root = await realpath(this.#root);
    if (!isBelow(root, target) && !isOwnBlob(root, target)) {
      throw new RunError(
        `${this.name}: ${name} links to ${target}, outside the bundle; copy it with its files (cp -rL)`,
      );
    }
    return file;
  }
}

/** A file's path once it is known to be the one the manifest names, hashed in pieces. */
export async function verifiedPath(bundle, name) {
  const { size, sha256 } = bundle.entry(name);
  const file = await bundle.files.path(name);
  if (file === null) throw new RunError(`${bundle.name}: ${name} is missing; export the bundle again`);
  const bytes = (await stat(file)).size;
  if (bytes !== size) {
    throw new RunError(
      `${bundle.name}: ${name} has ${bytes} bytes, the manifest says ${size}; export the bundle again`,
    );
  }
  const hash = createHash("sha256");
  for await (const piece of createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(piece);
  if (hash.digest("hex") !== sha256) throw bundle.changed(name);
  return file;
}

function isBelow(root, target) {
  const relative = path.relative(root, target);
  return relative !== "" && !relative.startsWith("..") && !path.isAbsolute(relative);
}

/** A hub's cache keeps snapshots as links into its own `blobs` folder; those are the bundle's. */
function isOwnBlob(root, target) {
  const parts = root.split(path.sep);
  const at = parts.lastIndexOf("snapshots");
  if (at < 1 || !parts[at - 1].startsWith("models--")) return false;
  return path.dirname(target) === path.join(parts.slice(0, at).join(path.sep), "blobs");
}
