/** Folders that are picked or dropped, as [path, File] pairs below the bundle's own folder. */

const MANIFEST = "bundle.json";

/** Of `<input type="file" webkitdirectory>`. */
export function fromInput(list) {
  return belowManifest(Array.from(list, (file) => [file.webkitRelativePath || file.name, file]));
}

/** Of a drop: folders are walked through. */
export async function fromDrop(items) {
  // All at once: the list is empty after the event's first pause.
  const entries = Array.from(items, (item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  return belowManifest((await Promise.all(entries.map(walk))).flat());
}

async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [[entry.fullPath.replace(/^\//, ""), file]];
  }
  const found = [];
  const reader = entry.createReader();
  for (;;) {
    // It gives a hundred at a time, then none.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return found;
    found.push(...(await Promise.all(some.map(walk))).flat());
  }
}

/** Paths below the folder of the manifest; with none, below the folder that was picked. */
function belowManifest(pairs) {
  const depth = (path) => path.split("/").length;
  const manifests = pairs.map(([path]) => path).filter((path) => path.split("/").at(-1) === MANIFEST);
  manifests.sort((one, other) => depth(one) - depth(other));
  const folder = (manifests[0] ?? pairs[0]?.[0] ?? "").split("/").slice(0, -1);
  const prefix = folder.map((part) => `${part}/`).join("");
  const files = pairs
    .filter(([path]) => path.startsWith(prefix))
    .map(([path, file]) => [path.slice(prefix.length), file]);
  return { name: folder.at(-1) ?? "the files", files };
}
