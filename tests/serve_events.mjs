/** The events that the page reads of a text in chunks of so many bytes: node serve_events.mjs FILE TEXT BYTES. */

import { readFileSync } from "node:fs";

const [file, text, bytes] = process.argv.slice(2);
const source = readFileSync(file, "utf-8");
const { eventsOf } = await import(`data:text/javascript,${encodeURIComponent(source)}`);
const all = new TextEncoder().encode(text);
const chunks = [];
for (let at = 0; at < all.length; at += Number(bytes)) chunks.push(all.slice(at, at + Number(bytes)));
const body = new ReadableStream({
  start(controller) {
    for (const chunk of chunks) controller.enqueue(chunk);
    controller.close();
  },
});
const events = [];
for await (const event of eventsOf(body.getReader())) events.push(event);
console.log(JSON.stringify(events));
