/** Where a page's bundles come from, and the origin's cache that keeps them for the next time. */

import { RunError } from "./host/errors.js";
import { MANIFEST, sha256 } from "./host/manifest.js";

/** @typedef {import("./host/manifest.js").Files} Files */

const CACHE = "wuerstchen-bundles";
const GOLDEN = "golden/";

/** Files that were picked or dropped, by their path below the folder. @returns {Files} */
export function pickedFiles(name, files) {
  return {
    name,
    read: async (path) => (files.has(path) ? new Uint8Array(await files.get(path).arrayBuffer()) : null),
  };
}

/** A bundle at an address, which must allow this origin (CORS). @returns {Files} */
export function fetchedFiles(address) {
  const base = new URL(address.replace(/\/?(bundle\.json)?$/, "/"));
  const read = async (path) => {
    const url = new URL(path.split("/").map(encodeURIComponent).join("/"), base);
    const response = await fetch(url, { credentials: "omit" }).catch((error) => {
      throw new RunError(`${url}: ${error.message} (is it there, and does it allow this page by CORS?)`);
    });
    if (response.status === 404) return null;
    if (!response.ok) throw new RunError(`${url}: the server says ${response.status} ${response.statusText}`);
    return new Uint8Array(await response.arrayBuffer());
  };
  return { name: base.href, read };
}

/** A bundle kept before. @returns {Files} */
export function keptFiles(key, name) {
  const read = async (path) => {
    const kept = await (await caches.open(CACHE)).match(urlOf(key, path));
    return kept ? new Uint8Array(await kept.arrayBuffer()) : null;
  };
  return { name, read };
}

/** All that is kept, the newest last: key and name. */
export async function keptBundles() {
  const cache = await caches.open(CACHE);
  const manifests = (await cache.keys()).filter(({ url }) => url.endsWith(`/${MANIFEST}`));
  return Promise.all(
    manifests.map(async (request) => {
      const { model, precision } = await (await cache.match(request)).json();
      return { key: new URL(request.url).pathname.split("/").at(-2), name: `${model.id}, ${precision}` };
    }),
  );
}

/**
 * Copy a bundle into the cache, each file hashed on its way; the manifest goes last, so that half a
 * bundle is none. `progress` is told of bytes.
 * @param {import("./host/manifest.js").Bundle} bundle @returns {Promise<string>} its key
 */
export async function keep(bundle, progress) {
  const key = (await sha256(bundle.bytes)).slice(0, 16);
  const cache = await caches.open(CACHE);
  if (await cache.match(urlOf(key, MANIFEST))) return key;
  const paths = filesOf(bundle.manifest);
  const total = paths.reduce((sum, path) => sum + bundle.entry(path).size, 0);
  let done = 0;
  try {
    for (const path of paths) {
      const bytes = path.startsWith(GOLDEN) ? await bundle.readIfThere(path) : await bundle.read(path);
      if (bytes !== null) await put(cache, urlOf(key, path), bytes);
      done += bundle.entry(path).size;
      progress(done, total);
    }
    await put(cache, urlOf(key, MANIFEST), bundle.bytes);
  } catch (error) {
    await forget(key); // half of it would only take room
    throw error;
  }
  return key;
}

async function put(cache, url, bytes) {
  try {
    await cache.put(url, new Response(bytes));
  } catch (error) {
    throw new RunError(
      `the browser cannot keep the bundle (${error.message}); free space, or forget another one`,
    );
  }
}

/** Forget a kept bundle. */
export async function forget(key) {
  const cache = await caches.open(CACHE);
  const own = (await cache.keys()).filter(({ url }) => new URL(url).pathname.split("/").includes(key));
  // The manifest first: what is left of a bundle is none.
  own.sort((one, other) => Number(other.url.endsWith(MANIFEST)) - Number(one.url.endsWith(MANIFEST)));
  for (const request of own) await cache.delete(request);
}

/** What this host reads of a bundle; a golden run that was left out is no fault. */
function filesOf(manifest) {
  // Those that a run from a prompt takes: a bundle may hold others.
  const graphs = manifest.host.run.flatMap(({ graph }) => {
    const { file, data } = manifest.graphs[graph];
    return [file, ...data.map((part) => part.file)];
  });
  const texts = Object.values(manifest.tokenizers).flatMap(({ folder }) => [
    `${folder}/vocab.json`,
    `${folder}/merges.txt`,
  ]);
  const golden = Object.keys(manifest.files).filter((path) => path.startsWith(GOLDEN));
  return [...new Set([...graphs, ...texts, ...golden])];
}

function urlOf(key, path) {
  return new URL(`bundles/${key}/${path}`, new URL(".", import.meta.url)).href;
}
