/** The errors a user sees: one line that says what, where and what to do next. */

/** The request cannot be met as asked. */
export class UsageError extends Error {
  exitCode = 2;
}

/** The request was valid and something failed while it ran, or a check did. */
export class RunError extends Error {
  exitCode = 1;
}

const OUT_OF_MEMORY =
  /bad_alloc|out of memory|\boom\b|failed to allocate|allocation (size overflow|failed)|memory access out of bounds|invalid (typed )?array (buffer )?length|cannot enlarge memory|shape is too large/i;
const FEWER_BYTES = "make a smaller picture, hold one graph at a time, or take an int8 or int4 bundle";

/** What a library says of an error, which may be a page, on one line. */
export function oneLine(error) {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/\s+/g, " ").trim();
}

/**
 * An error of an engine, or of JavaScript itself, as one of ours; `what` was being done.
 * @returns {UsageError | RunError}
 */
export function asOurs(error, what) {
  if (error instanceof UsageError || error instanceof RunError) return error;
  // ONNX Runtime's WebAssembly throws bare numbers: the address of a C++ exception.
  const said = typeof error === "number" ? `exception ${error}` : oneLine(error);
  if (OUT_OF_MEMORY.test(said)) return new RunError(`${what}: out of memory (${said}); ${FEWER_BYTES}`);
  return new RunError(`${what}: ${said}`);
}
