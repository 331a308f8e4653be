/** Between the form and a request: what it offers of a model, what it asks for, what it is filled with again. */

const NUMBERS = ["steps", "decoder_steps", "guidance", "decoder_guidance"];
const OTHER = "other";
/** Shares of the model's own size, width and height: smaller, upright, lying, larger. */
const SHARES = [[0.5, 0.5], [0.75, 1], [1, 0.75], [1, 1.5], [1.5, 1], [1.25, 1.25]];

/** Offer what a model of /v1/models takes. */
export function offer(form, model) {
  const { elements } = form;
  offerSizes(form, model);
  elements.n.max = model.limits.n;
  for (const name of NUMBERS) {
    if (!name.includes("guidance")) elements[name].max = model.limits[name];
    else if (model.limits.guidance) elements[name].max = model.limits.guidance;
  }
  const presets = Object.entries(model.presets ?? {});
  fill(elements.preset, [["", "none"], ...presets.map(([name, values]) => [name, told(name, values)])]);
  form.querySelector("#preset-field").hidden = presets.length === 0;
  showDefaults(form, model);
}

/** What empty fields stand for: the preset's values, else the model's. */
export function showDefaults(form, model) {
  const values = { ...model.defaults, ...model.presets?.[form.elements.preset.value] };
  for (const name of NUMBERS) form.elements[name].placeholder = values[name] ?? "";
}

/** Width and height by themselves are there where "other" is chosen. */
export function showOwnSize(form) {
  const own = form.elements.size.value === OTHER;
  for (const field of form.querySelectorAll(".own-size")) field.hidden = !own;
}

/** The first field that is wrong, else undefined. */
export function wrongField(form) {
  const fields = [...form.elements].filter((field) => field.willValidate);
  for (const field of fields) field.removeAttribute("aria-invalid");
  const wrong = fields.find((field) => !field.validity.valid);
  wrong?.setAttribute("aria-invalid", "true");
  return wrong;
}

/** The body of a request for what the form says. */
export function requestOf(form, model) {
  const { elements } = form;
  const request = { model: model.id, prompt: elements.prompt.value, n: Number(elements.n.value) };
  const size = elements.size.value;
  request.size = size === OTHER ? `${elements.width.value}x${elements.height.value}` : size;
  if (elements.seed.value.trim()) request.seed = Number(elements.seed.value);
  if (elements.negative_prompt.value) request.negative_prompt = elements.negative_prompt.value;
  if (elements.preset.value) request.preset = elements.preset.value;
  for (const name of NUMBERS) if (elements[name].value !== "") request[name] = Number(elements[name].value);
  request.stream = true;
  if (model.previews) request.partial_images = model.limits.partial_images ?? 3;
  return request;
}

/** Fill the form with a request as it was made, of one picture and its seed. */
export function refill(form, request, seed) {
  const { elements } = form;
  elements.prompt.value = request.prompt;
  elements.negative_prompt.value = request.negative_prompt ?? "";
  elements.n.value = 1;
  elements.seed.value = seed;
  elements.preset.value = request.preset ?? "";
  for (const name of NUMBERS) elements[name].value = request[name] ?? "";
  chooseSize(elements, request.size);
  showOwnSize(form);
  const hidden = ["negative_prompt", ...NUMBERS];
  if (hidden.some((name) => elements[name].value !== "")) form.querySelector("#more").open = true;
}

/** Options of a request in words, without its prompt and seed. */
export function inWords(request, size) {
  const words = [spaced(size)];
  if (request.preset) words.push(`preset ${request.preset}`);
  for (const name of NUMBERS) if (request[name] !== undefined) words.push(`${nameOf(name)} ${request[name]}`);
  if (request.negative_prompt) words.push(`without “${request.negative_prompt}”`);
  return words.join(" · ");
}

function offerSizes(form, model) {
  const { size, width, height } = form.elements;
  const own = model.default_size.split("x").map(Number);
  const sides = model.sides ?? [];
  const found = (model.sizes ?? []).concat(SHARES.map((shares) => nearSize(own, shares, sides)));
  const fits = (each) => each && area(each) <= model.limits.pixels && each !== model.default_size;
  const sizes = [...new Set(found.filter(fits))].sort((one, other) => area(one) - area(other));
  const entries = sizes.map((each) => [each, spaced(each)]);
  fill(size, [["auto", spaced(model.default_size)], ...entries, ...(sides.length ? [[OTHER, "other …"]] : [])]);
  for (const [field, side] of [[width, own[0]], [height, own[1]]]) {
    fill(field, sides.map((each) => [each, `${each} px`]));
    if (sides.includes(side)) field.value = side;
  }
  showOwnSize(form);
}

function nearSize(own, shares, sides) {
  if (sides.length === 0) return "";
  const near = (wanted) =>
    sides.reduce((best, side) => (Math.abs(side - wanted) < Math.abs(best - wanted) ? side : best));
  return own.map((side, axis) => near(side * shares[axis])).join("x");
}

function chooseSize({ size, width, height }, wanted) {
  size.value = wanted;
  if (size.value === wanted) return;
  size.value = OTHER;
  [width.value, height.value] = wanted.split("x");
}

/** Options of a select anew; what was chosen stays where it is still there. */
function fill(select, entries) {
  const before = select.value;
  select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
  if (entries.some(([value]) => value === before)) select.value = before;
}

/** A size as it is read, on one line. */
const spaced = (size) => size.replace("x", "\u00a0×\u00a0");
const area = (size) => size.split("x").reduce((product, side) => product * Number(side), 1);
const nameOf = (name) => name.replace("decoder_", "Stage B ");
const told = (name, values) =>
  `${name}: ${Object.entries(values).map(([key, value]) => `${nameOf(key)} ${value}`).join(", ")}`;
