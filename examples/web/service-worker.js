/**
 * The page without a network: its own files are kept when it is installed. It also adds the headers
 * of cross-origin isolation, so that a server which cannot send them has threads from the second
 * visit on. Bundles are kept by storage.js.
 */

// Another number with every release of the page: what is kept is kept as a whole.
const NAME = "wuerstchen-page-";
const CACHE = `${NAME}1`;
const PAGE = [
  "./",
  "index.html",
  "style.css",
  "page.js",
  "picking.js",
  "storage.js",
  "engine.js",
  "worker.js",
  ...[
    "check",
    "engine",
    "errors",
    "manifest",
    "noise",
    "picture",
    "plan",
    "recording",
    "run",
    "safetensors",
    "sampler",
    "schedule",
    "sizes",
    "tensors",
    "tokenizer",
  ].map((name) => `host/${name}.js`),
  "vendor/ort.wasm.bundle.min.mjs",
  "vendor/ort-wasm-simd-threaded.wasm",
];
const FOR_WEBGPU = ["vendor/ort.webgpu.bundle.min.mjs", "vendor/ort-wasm-simd-threaded.asyncify.wasm"];
const ISOLATED = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

addEventListener("install", (event) => {
  const files = self.navigator.gpu ? [...PAGE, ...FOR_WEBGPU] : PAGE;
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(files))
      .then(() => self.skipWaiting()),
  );
});

addEventListener("activate", (event) => {
  event.waitUntil(forgetOthers().then(() => self.clients.claim()));
});

addEventListener("fetch", (event) => {
  const { request } = event;
  const isOurs = new URL(request.url).origin === self.location.origin;
  if (request.method === "GET" && isOurs) event.respondWith(answer(request));
});

async function forgetOthers() {
  const others = (await caches.keys()).filter((name) => name.startsWith(NAME) && name !== CACHE);
  await Promise.all(others.map((name) => caches.delete(name)));
}

/** From the network while there is one, so that a new version is seen at once. */
async function answer(request) {
  const response = await fetch(request).catch(() =>
    caches.match(request, { cacheName: CACHE, ignoreSearch: true }),
  );
  return response ? isolated(response) : Response.error();
}

function isolated(response) {
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATED)) headers.set(name, value);
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
