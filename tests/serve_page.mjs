/** What a user does with the server's page: node serve_page.mjs STEPS.JSON, of test_host_serve.py. */

import { browser, outline } from "./browser.mjs";

const { page, errors, WAIT, carryOut } = await browser();
const asked = new Set();
page.on("request", (request) => asked.add(new URL(request.url()).origin));

const text = (id) => page.locator(`#${id}`).textContent();
const shown = async (id) => ((await page.locator(`#${id}`).isVisible()) ? text(id) : "");
const idle = () =>
  page.waitForFunction(() => !document.getElementById("make").hasAttribute("aria-disabled"), null, WAIT);

/** Note all that the page says and shows from now on. */
function watch() {
  return page.evaluate(() => {
    const seen = { said: [], announced: [], done: [], previews: [] };
    const note = (list, value) => value && seen[list].at(-1) !== value && seen[list].push(value);
    const look = () => {
      note("said", document.getElementById("status").textContent);
      note("announced", document.getElementById("announced").textContent);
      note("done", document.getElementById("bar").value);
      for (const image of document.querySelectorAll("#tiles .preview")) note("previews", image.src);
    };
    window.seen = seen;
    window.watching?.disconnect();
    window.watching = new MutationObserver(look);
    window.watching.observe(document.body, { subtree: true, childList: true, attributes: true });
  });
}

async function result() {
  return {
    alert: await shown("alert"),
    note: await shown("note"),
    seen: await page.evaluate(() => window.seen),
    tiles: await page.locator("#tiles figcaption span").allTextContents(),
    history: await page.locator("#history .hint").allTextContents(),
  };
}

async function fill(fields) {
  if (Object.keys(fields).length) await page.locator("#more").evaluate((more) => (more.open = true));
  for (const [id, value] of Object.entries(fields)) {
    const field = page.locator(`#${id}`);
    if (await field.evaluate((one) => one.tagName === "SELECT")) await field.selectOption(String(value));
    else await field.fill(String(value));
  }
}

const DO = {
  async goto({ url }) {
    await page.goto(url);
    await page.waitForFunction(
      () =>
        document.getElementById("about").textContent ||
        !document.getElementById("model-field").hidden ||
        !document.getElementById("key-form").hidden ||
        !document.getElementById("alert").hidden,
      null,
      WAIT,
    );
    return { alert: await shown("alert"), key: await page.locator("#key-form").isVisible() };
  },
  /** Typed, and the button clicked; or `key` pressed in the prompt. */
  async make({ prompt, fields = {}, key }) {
    await fill(fields);
    if (prompt !== undefined) await page.fill("#prompt", "");
    // What is long is pasted.
    if (prompt?.length > 100) await page.fill("#prompt", prompt);
    else if (prompt) await page.locator("#prompt").pressSequentially(prompt);
    await watch();
    if (key) await page.press("#prompt", key);
    else await page.click("#make");
    await idle();
    return result();
  },
  /** Tab, letters, arrows and Enter alone: from the top of the page to a picture, then to its link. */
  async keyboard({ prompt, seed }) {
    await watch();
    await page.evaluate(() => document.activeElement.blur());
    const reached = [];
    const tabTo = async (id) => {
      for (let presses = 0; presses < 40; presses += 1) {
        await page.keyboard.press("Tab");
        const now = await page.evaluate(() => {
          const focused = document.activeElement;
          return { id: focused.id || focused.textContent, ring: getComputedStyle(focused).outlineStyle };
        });
        reached.push(now);
        if (now.id === id) return;
      }
      throw new Error(`Tab does not lead to ${id}`);
    };
    await tabTo("prompt");
    await page.keyboard.type(prompt);
    await tabTo("seed");
    await page.keyboard.type(String(seed));
    await tabTo("make");
    await page.keyboard.press("Enter");
    await idle();
    await tabTo("Download");
    return { ...(await result()), unringed: reached.filter(({ ring }) => ring === "none") };
  },
  /** Begun, and stopped once Stage C is at work: by `Escape`, or a click. */
  async stop({ fields, by }) {
    await fill(fields);
    await watch();
    await page.click("#make");
    await page.waitForFunction(() => document.getElementById("bar").value > 0, null, WAIT);
    if (by === "Escape") await page.keyboard.press("Escape");
    else await page.click("#stop");
    await idle();
    return { ...(await result()), focused: await page.evaluate(() => document.activeElement.id) };
  },
  async download({ file, from = "#tiles a" }) {
    const [download] = await Promise.all([page.waitForEvent("download"), page.locator(from).first().click()]);
    await download.saveAs(file);
    return { name: download.suggestedFilename() };
  },
  async click({ on }) {
    await page.locator(on).first().click();
    return result();
  },
  async key({ key }) {
    await page.fill("#key", key);
    await page.press("#key", "Enter");
    await page.waitForFunction(
      () => !document.getElementById("form").hidden || !document.getElementById("alert").hidden,
      null,
      WAIT,
    );
    const kept = await page.evaluate(() => [sessionStorage.length, localStorage.length]);
    return { alert: await shown("alert"), kept, focused: await page.evaluate(() => document.activeElement.id) };
  },
  async fields() {
    return page.evaluate(() => Object.fromEntries(new FormData(document.getElementById("form"))));
  },
  /** In the middle of a run, where `during`: the picture of the page is taken then. */
  async look({ file, viewport, scheme, during }) {
    if (viewport) await page.setViewportSize(viewport);
    if (scheme) await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
    if (during) {
      await fill(during);
      await page.click("#make");
      await page.waitForSelector("#tiles .preview", WAIT);
    }
    await page.screenshot({ path: file, fullPage: true });
    const found = { ...(await outline(page)), contrasts: await page.evaluate(contrasts) };
    if (during) await page.keyboard.press("Escape");
    await idle();
    return found;
  },
  async asked() {
    return { origins: [...asked], errors };
  },
};

/** The contrast of every text that is seen with its ground, the least first (WCAG 2.2, 1.4.3). */
function contrasts() {
  const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
  const luminance = (colour) => {
    const [red, green, blue] = channels(colour)
      .slice(0, 3)
      .map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (channels(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const ratio = (colour, below) => {
    const [light, dark] = [luminance(colour), luminance(below)].sort((one, other) => other - one);
    return (light + 0.05) / (dark + 0.05);
  };
  const own = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const all = [];
  for (const element of document.querySelectorAll("body *")) {
    if (!element.checkVisibility()) continue;
    const name = element.id || element.className || element.tagName;
    const field = element.matches("input, select, textarea");
    const style = getComputedStyle(element);
    if (own(element) || field) all.push([name, ratio(style.color, ground(element))]);
    if (element.placeholder)
      all.push([`${name} placeholder`, ratio(getComputedStyle(element, "::placeholder").color, ground(element))]);
    // An edge is no text: 3 is enough (1.4.11).
    if (field) all.push([`${name} edge`, 1.5 * ratio(style.borderTopColor, ground(element.parentElement))]);
  }
  return all.sort((one, other) => one[1] - other[1]).slice(0, 5);
}

await carryOut(DO, async () => `status: ${await shown("status")}, alert: ${await shown("alert")}`);
