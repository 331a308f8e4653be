/**
 * Headless Chromium for the scripts of tests/js_hosts.py: `node SCRIPT STEPS.JSON`. Each step is {does, ...},
 * a name of the script's functions and its values; what they gave is printed as one JSON object.
 */

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const asked = JSON.parse(readFileSync(process.argv[2], "utf-8"));
const { chromium } = createRequire(new URL("../examples/web/", import.meta.url))("playwright-core");

/** An open browser: its page, the errors of its console, and how steps are carried out in it. */
export async function browser() {
  const context = await chromium.launchPersistentContext(asked.profile, {
    executablePath: asked.chromium,
    headless: true,
    args: ["--no-sandbox", ...(asked.flags ?? [])],
    viewport: asked.viewport ?? { width: 1280, height: 900 },
    colorScheme: asked.scheme ?? "light",
  });
  const page = context.pages()[0] ?? (await context.newPage());
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  const WAIT = { timeout: asked.timeout ?? 300_000 };

  /** Do every step by its function in `does`, and print what they gave; `where`: told after an error. */
  async function carryOut(does, where) {
    const results = [];
    try {
      for (const { does: name, ...values } of asked.steps) results.push((await does[name](values)) ?? {});
    } catch (error) {
      errors.push(`${error.message} (${await where()})`);
    }
    await context.close();
    console.log(JSON.stringify({ results, errors }));
  }

  return { page, context, errors, WAIT, carryOut };
}

/** What of a page does not fit its window, and which of its controls have no label. */
export function outline(page) {
  return page.evaluate(() => ({
    sideways: document.documentElement.scrollWidth - window.innerWidth,
    unlabelled: [...document.querySelectorAll("input, select, textarea, progress")]
      .filter((one) => one.labels.length === 0)
      .map((one) => one.id),
  }));
}
