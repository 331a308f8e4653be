/** The page: what the user does goes to the worker, what the worker says is shown. */

import { fromDrop, fromInput } from "./picking.js";

const $ = (id) => document.getElementById(id);
const PARTS = {
  replay: "The replay is",
  tokens: "The ids of prompts are",
  graphs: "The graphs are",
  run: "The run is",
};
let worker;
let opened = null; // of the bundle in use
let asked = null; // the prompt in work

const SHOW = {
  kept({ bundles }) {
    $("kept-row").hidden = bundles.length === 0;
    $("kept").replaceChildren(...bundles.map(({ key, name }) => new Option(name, key)));
    if (opened) $("kept").value = opened.key;
    // After a reload the newest bundle is at hand again, without a network.
    else if (bundles.length > 0) send("reopen", bundles.at(-1));
  },

  keeping({ done, total }) {
    $("keeping-row").hidden = done === total;
    $("keeping").value = done / total;
  },

  opened(bundle) {
    opened = bundle;
    $("bundle").textContent = `${bundle.name}, ${bundle.precision}`;
    const { elements } = $("making");
    const defaults = {
      height: bundle.height,
      width: bundle.width,
      steps: bundle.steps[0],
      guidance: bundle.guidance[0],
      decoderSteps: bundle.steps[1],
      decoderGuidance: bundle.guidance[1],
    };
    for (const [name, value] of Object.entries(defaults)) elements[name].placeholder = value;
    ready("Ready.");
  },

  note({ text }) {
    const before = $("note").textContent;
    $("note").textContent = before ? `${before} ${text}` : text;
  },

  step({ name, done, total, preview }) {
    const progress = document.getElementById(name);
    if (progress instanceof HTMLProgressElement) progress.value = done / total;
    // A reader is told of stages, not of each step.
    if (done === total) $("status").textContent = `${name} is done.`;
    if (preview) draw(preview, `latents of ${name} after step ${done} of ${total}`);
  },

  picture({ height, width, rgba, seconds, about }) {
    draw({ height, width, rgba }, `picture of: ${asked}`);
    $("caption").textContent = `${width} × ${height}, ${seconds.total.toFixed(1)} s (${about})`;
    const rows = Object.entries(seconds.graphs).map(([graph, { load, run }]) =>
      row(graph, load.toFixed(2), run.toFixed(2)),
    );
    $("times").replaceChildren(...rows);
    $("times-row").hidden = false;
    $("canvas").toBlob((blob) => {
      URL.revokeObjectURL($("save").href);
      $("save").href = URL.createObjectURL(blob);
      $("save").hidden = false;
    });
    ready("The picture is there.");
  },

  compared({ part, compared }) {
    $("status").textContent = `${PARTS[part]} compared.`;
    const worst = new Map();
    for (const one of compared) {
      const before = worst.get(one.what);
      if (!before || (one.decibels ? one.error < before.error : one.error > before.error))
        worst.set(one.what, one);
    }
    $("compared").hidden = false;
    $("compared").append(...Array.from(worst.values(), line));
  },

  checked() {
    ready("The bundle gives its golden run here.");
  },

  error({ message }) {
    alertOf(message);
    $("stages").hidden = true;
    ready("It failed.");
  },
};

function line({ what, error, limit, decibels }) {
  const item = document.createElement("li");
  const values = [error, limit].map((value) => Number(value.toPrecision(3)));
  item.textContent = decibels
    ? `${what}: ${values[0]} dB (at least ${values[1]})`
    : `${what}: ${values[0]} (at most ${values[1]})`;
  return item;
}

function row(...cells) {
  const element = document.createElement("tr");
  element.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
  return element;
}

function draw({ height, width, rgba }, label) {
  const canvas = $("canvas");
  Object.assign(canvas, { height, width, hidden: false });
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
  canvas.setAttribute("aria-label", label);
}

function alertOf(message) {
  // Here they are fields, not flags.
  $("alert").textContent = message.replace(/--(?=(decoder-)?guidance|height|width)/g, "");
  $("alert").hidden = message === "";
}

/** Nothing is at work: say so, and let the next thing begin. */
function ready(text) {
  $("status").textContent = text;
  $("keeping-row").hidden = true;
  $("stop").hidden = true;
  for (const id of ["make", "check"]) $(id).disabled = opened === null;
  for (const id of ["open", "forget"]) $(id).disabled = false;
}

function busy(text, stoppable = false) {
  alertOf("");
  $("note").textContent = "";
  $("status").textContent = text;
  $("stop").hidden = !stoppable;
  for (const id of ["make", "check", "open", "forget"]) $(id).disabled = true;
}

const send = (kind, values = {}) => worker.postMessage({ kind, ...values });

function start() {
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.addEventListener("message", ({ data }) => SHOW[data.kind](data));
  worker.addEventListener("error", (event) =>
    SHOW.error({ message: event.message || "the page's worker did not start" }),
  );
}

function pick({ name, files }) {
  if (files.length === 0) return;
  busy("Reading the bundle …");
  send("pick", { name, files });
}

function make(event) {
  event.preventDefault();
  const data = Object.fromEntries(new FormData($("making")));
  const numbers = ["height", "width", "steps", "guidance", "decoderSteps", "decoderGuidance"];
  const given = numbers.map((name) => [name, data[name] === "" ? null : Number(data[name])]);
  asked = data.prompt;
  busy("Making the picture …", true);
  $("stages").hidden = false;
  $("caption").textContent = "";
  for (const id of ["canvas", "compared", "save", "times-row"]) $(id).hidden = true;
  for (const id of ["stage_c", "stage_b"]) $(id).value = 0;
  const options = {
    prompt: data.prompt,
    negative: data.negative,
    seed: BigInt(data.seed.replace("+", "")),
    ...Object.fromEntries(given),
  };
  send("run", { options, engine: data.engine });
}

/** A graph cannot be interrupted; its worker can. */
function stop() {
  worker.terminate();
  start();
  for (const id of ["stages", "canvas"]) $(id).hidden = true;
  send("reopen", { key: opened.key, name: opened.name });
}

function listen() {
  $("folder").addEventListener("change", ({ target }) => pick(fromInput(target.files)));
  $("fetching").addEventListener("submit", (event) => {
    event.preventDefault();
    busy("Fetching the bundle …");
    send("fetch", { address: $("address").value });
  });
  $("open").addEventListener("click", () => {
    busy("Opening the bundle …");
    const [chosen] = $("kept").selectedOptions;
    send("reopen", { key: chosen.value, name: chosen.text });
  });
  $("forget").addEventListener("click", () => send("forget", { key: $("kept").value }));
  $("making").addEventListener("submit", make);
  $("stop").addEventListener("click", stop);
  $("check").addEventListener("click", () => {
    busy("Checking the bundle …", true);
    $("compared").replaceChildren();
    send("check", { engine: $("making").elements.engine.value });
  });
  listenForDrops($("bundle-section"));
}

function listenForDrops(section) {
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault(); // or the browser opens what is dropped
      section.classList.toggle("over", kind === "dragover");
    });
  }
  document.addEventListener("drop", async ({ dataTransfer }) => pick(await fromDrop(dataTransfer.items)));
}

start();
listen();
send("list");
// Asked for once, so that the browser does not clear gigabytes by itself.
navigator.storage?.persist?.();
navigator.serviceWorker
  ?.register("service-worker.js")
  .catch((error) => alertOf(`The page will not work offline: ${error.message}`));
