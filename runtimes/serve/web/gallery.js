/** Pictures on the page: those that are being made, and the history of this tab. */

/** Pictures are kept in the browser's memory: the oldest are let go. */
const MOST_KEPT = 100;

/** An element with properties and children. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Places for so many pictures of a size "WxH", empty yet. */
export function emptyTiles(place, count, size) {
  const [width, height] = size.split("x");
  // As large as it is made, or some more: what is enlarged more is only blurred more.
  place.style.setProperty("--widest", `${width > 256 ? Math.max(width, 512) : 2.5 * width}px`);
  const tiles = Array.from({ length: count }, () => {
    const blank = element("div", { className: "blank" });
    blank.style.aspectRatio = `${width} / ${height}`;
    return element("figure", {}, blank);
  });
  place.classList.toggle("several", count > 1);
  place.replaceChildren(...tiles);
}

/** A preview in its place, as large as the picture will be. */
export function showPreview(place, index, base64) {
  const tile = place.children[index];
  if (!tile || tile.classList.contains("made")) return;
  let image = tile.querySelector("img");
  if (!image) {
    const blank = tile.querySelector(".blank");
    image = element("img", { className: "preview", alt: "Preview of a picture that is being made" });
    image.style.aspectRatio = blank.style.aspectRatio;
    blank.replaceWith(image);
  }
  image.src = `data:image/png;base64,${base64}`;
}

/** A finished picture in its place: {url, name, request, seed, size}. */
export function showPicture(place, index, picture) {
  const link = element("a", { href: picture.url, download: picture.name, textContent: "Download" });
  link.setAttribute("aria-label", `Download ${picture.name}`);
  const tile = element(
    "figure",
    { className: "made" },
    element("img", { src: picture.url, alt: picture.request.prompt }),
    element("figcaption", {}, element("span", { textContent: `Seed ${picture.seed}` }), link),
  );
  if (place.children[index]) place.children[index].replaceWith(tile);
  else place.append(tile);
}

/** Only finished pictures stay: those that were stopped on their way go. */
export function dropUnfinished(place) {
  for (const tile of [...place.children]) if (!tile.classList.contains("made")) tile.remove();
  place.classList.toggle("several", place.children.length > 1);
}

/** A line of the history, put first; `actions` are {show, again}, each called with the picture. */
export function remember(list, picture, actions) {
  const { request, seed, size, url, name } = picture;
  const what = `${request.prompt}, seed ${seed}`;
  const show = element(
    "button",
    { type: "button", className: "thumbnail", onclick: () => actions.show(picture) },
    element("img", { src: url, alt: "" }),
  );
  const again = element("button", { type: "button", className: "again", textContent: "Use again" });
  again.onclick = () => actions.again(picture);
  const link = element("a", { href: url, download: name, textContent: "Download" });
  show.setAttribute("aria-label", `Show large: ${what}`);
  again.setAttribute("aria-label", `Use again: ${what}`);
  link.setAttribute("aria-label", `Download: ${what}`);
  const words = element("div", { className: "words" });
  words.append(
    element("p", { className: "said", textContent: request.prompt }),
    element("p", { className: "hint", textContent: `Seed ${seed} · ${inWords(request, size)}` }),
    element("div", { className: "row" }, again, link),
  );
  list.prepend(element("li", { className: "card" }, show, words));
  while (list.children.length > MOST_KEPT) forgetOldest(list);
}

function forgetOldest(list) {
  const oldest = list.lastElementChild;
  URL.revokeObjectURL(oldest.querySelector("a").href);
  oldest.remove();
}

/** A name for a picture's file: what was asked for, and its seed. */
export function fileName(prompt, seed) {
  const words = prompt.normalize("NFC").toLowerCase().match(/[\p{L}\p{M}\p{N}]+/gu) ?? ["picture"];
  return `${[...words.join("-")].slice(0, 60).join("").replace(/-$/, "")}-seed-${seed}.png`;
}
