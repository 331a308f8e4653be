/**
 * What a user does with the page, in headless Chromium: node web_page.mjs STEPS.JSON. The steps come
 * from test_host_web.py; what they gave is printed as one JSON object.
 */

import { writeFileSync } from "node:fs";
import { browser, outline } from "./browser.mjs";

const { page, context, WAIT, carryOut } = await browser();

const status = () => page.locator("#status").textContent();
const alert = async () =>
  (await page.locator("#alert").isVisible()) ? page.locator("#alert").textContent() : "";
const settled = (wanted) =>
  page.waitForFunction(
    (text) =>
      document.getElementById("status").textContent === text || !document.getElementById("alert").hidden,
    wanted,
    WAIT,
  );

const DO = {
  async goto({ url }) {
    await page.goto(url);
    return page.evaluate(() => ({ isolated: crossOriginIsolated }));
  },
  /** The service worker has kept the page. */
  async installed() {
    await page.evaluate(() => navigator.serviceWorker.ready.then(() => true));
  },
  async pick({ folder }) {
    await page.setInputFiles("#folder", folder);
    await settled("Ready.");
    return { alert: await alert(), bundle: await page.locator("#bundle").textContent() };
  },
  /** A folder dropped on the page. */
  async drop({ folder }) {
    const devtools = await context.newCDPSession(page);
    const data = { items: [], files: [folder], dragOperationsMask: 1 };
    for (const type of ["dragEnter", "dragOver", "drop"]) {
      await devtools.send("Input.dispatchDragEvent", { type, x: 100, y: 100, data });
    }
    await settled("Ready.");
    return { alert: await alert(), bundle: await page.locator("#bundle").textContent() };
  },
  async fetch({ address }) {
    await page.fill("#address", address);
    await page.click("#fetching button");
    await settled("Ready.");
    return { alert: await alert(), bundle: await page.locator("#bundle").textContent() };
  },
  async reopened() {
    await settled("Ready.");
    return { bundle: await page.locator("#bundle").textContent() };
  },
  /** A prompt is typed and the button clicked; with `keyboard`, Tab leads there and Enter presses it. */
  async make({ prompt, fields = {}, engine = "wasm", pixels, keyboard = false }) {
    await page.locator("#making details").evaluate((element) => (element.open = true));
    for (const [name, value] of Object.entries(fields))
      await page.fill(`#making [name=${name}]`, String(value));
    await page.selectOption("#making [name=engine]", engine);
    await page.fill("#prompt", "");
    await page.evaluate(() => {
      const canvas = document.getElementById("canvas");
      window.shown = new Set();
      const note = () => window.shown.add(canvas.getAttribute("aria-label").split(" after ")[0]);
      new MutationObserver(note).observe(canvas, { attributeFilter: ["aria-label"] });
    });
    if (prompt.length > 40) await page.fill("#prompt", prompt);
    else await page.locator("#prompt").pressSequentially(prompt);
    await (keyboard ? pressButton() : page.click("#make"));
    await settled("The picture is there.");
    const said = {
      alert: await alert(),
      note: await page.locator("#note").textContent(),
      caption: await page.locator("#caption").textContent(),
      shown: await page.evaluate(() => [...window.shown]),
    };
    if (said.alert || !pixels) return said;
    return { ...said, ...(await savePixels(pixels)) };
  },
  /** Begun with a click, stopped once a step is done. */
  async stop() {
    await page.click("#make");
    await page.waitForFunction(() => document.getElementById("stage_c").value > 0, null, WAIT);
    await page.click("#stop");
    await settled("Ready.");
    return { alert: await alert(), stages: await page.locator("#stages").isVisible() };
  },
  async forget() {
    await page.click("#forget");
    await page.waitForFunction(() => document.getElementById("kept-row").hidden, null, WAIT);
    return page.evaluate(async () => ({
      left: (await (await caches.open("wuerstchen-bundles")).keys()).length,
    }));
  },
  async check() {
    await page.locator("#making details").evaluate((element) => (element.open = true));
    await page.click("#check");
    await settled("The bundle gives its golden run here.");
    return { alert: await alert(), compared: await page.locator("#compared li").allTextContents() };
  },
  /** Messages to a worker of its own: parts of the check that the page has no button for. */
  async work({ messages }) {
    return page.evaluate(
      ({ messages: all }) =>
        new Promise((resolve) => {
          const worker = new Worker("worker.js", { type: "module" });
          const answers = [];
          worker.onerror = (event) => resolve([{ kind: "error", message: event.message }]);
          worker.onmessage = ({ data }) => {
            if (data.kind !== "step") answers.push(data);
            if (["checked", "error"].includes(data.kind)) resolve(answers);
          };
          for (const message of all) worker.postMessage(message);
        }),
      { messages },
    );
  },
  async look({ file, viewport, scheme }) {
    if (viewport) await page.setViewportSize(viewport);
    if (scheme) await page.emulateMedia({ colorScheme: scheme });
    await page.screenshot({ path: file, fullPage: true });
    return outline(page);
  },
};

async function pressButton() {
  await page.focus("#prompt");
  for (let presses = 0; presses < 20; presses += 1) {
    await page.keyboard.press("Tab");
    if (await page.evaluate(() => document.activeElement.id === "make")) return page.keyboard.press("Enter");
  }
  throw new Error("Tab does not lead from the prompt to the button");
}

async function savePixels(file) {
  const { height, width, data } = await page.evaluate(() => {
    const canvas = document.getElementById("canvas");
    const {
      data: rgba,
      width: w,
      height: h,
    } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return { height: h, width: w, data: Array.from(rgba) };
  });
  writeFileSync(file, Uint8Array.from(data.filter((_, i) => i % 4 !== 3)));
  return { height, width };
}

await carryOut(
  DO,
  async () =>
    `status: ${await status().catch(() => "none")}, alert: ${await alert().catch(() => "none")}`,
);
