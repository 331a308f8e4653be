/** What happens on the page: a model is offered, pictures are asked for, come, and are kept. */

const at = (id) => document.getElementById(id);
const form = at("form");
const STAGES = {
  text_encoder: "Reading the prompt",
  decoder_text_encoder: "Reading the prompt",
  stage_c_condition: "Reading the prompt",
  stage_c: "Composing, Stage C",
  stage_b_condition: "Adding detail, Stage B",
  stage_b: "Adding detail, Stage B",
  stage_a: "Developing, Stage A",
};
let models = [];
/** The run that is under way: {abort, request, stage, made, began}. */
let run = null;
let lastSeed = null;

const model = () => models.find((each) => each.id === at("model").value) ?? models[0];

// ---- What is said

function alarm(text) {
  at("alert").textContent = text;
  at("alert").hidden = !text;
  if (text) at("alert").scrollIntoView({ block: "nearest" });
}

/** For those who listen: what changed, not every step. */
function announce(text) {
  at("announced").textContent = text;
}

function tell(problem) {
  if (problem.status === 401) askForKey();
  alarm(problem.status === 401 && !at("key").dataset.tried ? "" : problem.message);
  if (!(problem instanceof Problem)) console.error(problem);
}

// ---- Models and the key

async function open() {
  try {
    models = (await (await ask("v1/models")).json()).data;
  } catch (problem) {
    if (problem.status === 503) return openLater(problem);
    return tell(problem);
  }
  at("key-form").hidden = true;
  form.hidden = false;
  at("run").hidden = !run;
  at("stop").hidden = false;
  at("forget").hidden = !sessionStorage.getItem(KEY);
  at("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
  at("model-field").hidden = models.length < 2;
  alarm("");
  changeModel();
}

/** Models are loaded while the page is there already. */
function openLater({ seconds }) {
  at("status").textContent = "The server is loading its models";
  at("bar").removeAttribute("value");
  at("run").hidden = false;
  at("stop").hidden = true;
  setTimeout(open, 1000 * Math.max(seconds ?? 0, 1));
}

function changeModel() {
  offer(form, model());
  at("about").textContent = models.length < 2 ? model().id : "";
}

function askForKey() {
  sessionStorage.removeItem(KEY);
  form.hidden = true;
  at("forget").hidden = true;
  at("key-form").hidden = false;
  at("key").value = "";
  at("key").focus();
}

async function useKey(event) {
  event.preventDefault();
  const key = at("key").value.trim();
  at("key").dataset.tried = "yes";
  alarm("");
  if (!/^[\x21-\x7e]+$/.test(key)) return alarm("A key has letters, digits and signs, and no spaces.");
  sessionStorage.setItem(KEY, key);
  await open();
  if (!form.hidden) at("prompt").focus();
}

// ---- A run

async function start(event) {
  event?.preventDefault();
  if (run || !models.length) return;
  const wrong = wrongField(form);
  if (wrong) {
    alarm(`${wrong.labels[0].textContent}: ${wrong.title || wrong.validationMessage}`);
    if (wrong.closest("details")) wrong.closest("details").open = true;
    return wrong.focus();
  }
  run = { abort: new AbortController(), request: requestOf(form, model()), made: 0, began: Date.now() };
  begin(run.request);
  try {
    await follow(run);
  } catch (problem) {
    if (problem.name === "AbortError") announce("Stopped.");
    else tell(problem);
  }
  finish();
}

async function follow({ abort, request }) {
  const answer = await ask("v1/images/generations", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify(request),
    signal: abort.signal,
  });
  for await (const event of eventsOf(answer.body.getReader())) HANDLERS[event.type]?.(event);
  if (run.made < request.n) throw new Problem("The server ended before the pictures were made.");
}

const HANDLERS = {
  "image_generation.queued": ({ ahead }) => progress("queued", ahead ? `Waiting, ${ahead} before it` : "Waiting", 0),
  "image_generation.progress"({ stage, step, steps, done }) {
    const words = STAGES[stage] ?? stage;
    progress(stage, steps > 1 ? `${words}: step ${step} of ${steps}` : words, done);
  },
  "image_generation.partial_image": (event) => showPreview(at("tiles"), event.picture ?? 0, event.b64_json),
  "image_generation.completed": complete,
  error({ error }) {
    throw new Problem(error.message, error.code === 401 ? 401 : 500);
  },
};

function progress(stage, words, done) {
  at("status").textContent = words;
  at("bar").value = done;
  if (stage !== run.stage) announce(words.split(":")[0]);
  run.stage = stage;
}

function complete(event) {
  const { request } = run;
  const url = URL.createObjectURL(new Blob([bytesOf(event.b64_json)], { type: "image/png" }));
  const name = fileName(request.prompt, event.seed);
  const picture = { url, name, request, seed: event.seed, size: event.size };
  run.made += 1;
  showPicture(at("tiles"), event.picture ?? run.made - 1, picture);
  remember(at("history"), picture, { show, again });
  at("past").hidden = false;
  const lost = (event.truncated ?? []).length > 0;
  if (lost) note("The text was too long: its end was not read.");
  offerSeed(event.seed - (event.picture ?? 0));
}

function begin(request) {
  alarm("");
  note("");
  at("empty").hidden = true;
  at("run").hidden = false;
  at("make").setAttribute("aria-disabled", "true");
  at("make").textContent = "Making …";
  progress("asked", "Asking the server", 0);
  emptyTiles(at("tiles"), request.n, request.size === "auto" ? model().default_size : request.size);
  at("current").scrollIntoView({ block: "nearest" });
}

function finish() {
  const { made, request, began } = run;
  run = null;
  dropUnfinished(at("tiles"));
  // Whoever pressed Stop is not left on a button that is gone.
  if (at("run").contains(document.activeElement)) at("make").focus();
  at("run").hidden = true;
  at("empty").hidden = at("tiles").children.length > 0;
  at("make").removeAttribute("aria-disabled");
  at("make").textContent = "Make";
  if (made < request.n) return;
  const seconds = ((Date.now() - began) / 1000).toFixed(1);
  announce(made > 1 ? `${made} pictures are there.` : "The picture is there.");
  if (at("note").hidden) note(`Made in ${seconds} s.`);
}

function stop() {
  run?.abort.abort();
}

// ---- What was made before

function note(text) {
  at("note").textContent = text;
  at("note").hidden = !text;
}

function offerSeed(seed) {
  lastSeed = seed;
  at("same-seed").hidden = false;
  at("same-seed").title = `The last one was ${seed}`;
}

function show(picture) {
  if (run) return;
  note("");
  emptyTiles(at("tiles"), 1, picture.size);
  showPicture(at("tiles"), 0, picture);
  at("empty").hidden = true;
  at("current").scrollIntoView({ block: "nearest" });
}

function again({ request, seed }) {
  at("model").value = request.model;
  changeModel();
  refill(form, request, seed);
  showDefaults(form, model());
  at("prompt").focus();
}

// ---- Keys and clicks

function keyInPrompt(event) {
  // While letters are being composed, Enter is the input method's.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  start();
}

form.addEventListener("submit", start);
at("key-form").addEventListener("submit", useKey);
at("prompt").addEventListener("keydown", keyInPrompt);
at("model").addEventListener("change", changeModel);
at("size").addEventListener("change", () => showOwnSize(form));
at("preset").addEventListener("change", () => showDefaults(form, model()));
at("stop").addEventListener("click", stop);
at("forget").addEventListener("click", () => {
  stop();
  delete at("key").dataset.tried;
  askForKey();
});
at("same-seed").addEventListener("click", () => {
  at("seed").value = lastSeed;
  at("seed").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target !== at("prompt")) start();
});
open();
