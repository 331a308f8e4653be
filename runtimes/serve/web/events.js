/** What the server sends: events of a stream, and errors as lines to show. */

/**
 * The events of a body's reader as {type, ...}: text/event-stream, whose chunks may end anywhere, within a
 * line or a letter. Fields other than `data` and comments are passed over: the type is in the data, too.
 */
export async function* eventsOf(reader) {
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
    const blocks = rest.split(/\r?\n\r?\n/);
    // Without an empty line at its end, an event never came whole.
    rest = blocks.pop();
    for (const block of blocks) {
      const data = dataOf(block);
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
    if (done) return;
  }
}

function dataOf(block) {
  const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).trimStart()).join("\n");
}

export const KEY = "wuerstchen-key";

/** An answer that is no stream of pictures; `status` 0: none came. `seconds`: when to ask again. */
export class Problem extends Error {
  constructor(message, status = 0, seconds = undefined) {
    super(message.replace(/\s+/g, " ").trim());
    Object.assign(this, { status, seconds });
  }
}

/** fetch with the key of this tab; a Problem for every answer that is not 2xx. */
export async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server does not answer. Is it still running?");
  }
  if (answer.ok) return answer;
  throw await problemOf(answer);
}

async function problemOf(answer) {
  const said = (await answer.json().catch(() => null))?.error?.message;
  const message = said ?? `the server answered ${answer.status}`;
  const sentence = `${message[0].toUpperCase()}${message.slice(1)}`.replace(/\.?$/, ".");
  const seconds = Number.parseInt(answer.headers.get("Retry-After") ?? "", 10);
  if (!(seconds >= 0)) return new Problem(sentence, answer.status);
  const when = new Date(Date.now() + seconds * 1000).toLocaleTimeString();
  return new Problem(`${sentence} Try again in ${seconds} s, at ${when}.`, answer.status, seconds);
}

/** Bytes of base64. */
export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}
