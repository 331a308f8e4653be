package wuerstchen

/** An error a user sees: one line that says what, where and what to do next. */
sealed class HostError(message: String) : Exception(message) {
    abstract val exitCode: Int
}

/** The request cannot be met as asked. */
class UsageError(message: String) : HostError(message) {
    override val exitCode = 2
}

/** The request was valid and something failed while it ran, or a check did. */
class RunError(message: String) : HostError(message) {
    override val exitCode = 1
}

/** Whoever asked for the picture does not want it any more. */
class Cancelled : Exception("cancelled")

private val OUT_OF_MEMORY = Regex("bad_alloc|out of memory|allocate memory|can't alloc|failed to allocate", RegexOption.IGNORE_CASE)
private const val FEWER_BYTES = "make a smaller picture, hold one graph at a time, or take an int8 or int4 bundle"

/** What a library says of an error, which may be a page, on one line. */
fun oneLine(error: Throwable): String = (error.message ?: error.javaClass.simpleName).replace(Regex("\\s+"), " ").trim()

/** An error of an engine, or of the virtual machine itself, as one of ours; [what] was being done. */
fun asOurs(error: Throwable, what: String): HostError = when {
    error is HostError -> error
    error is OutOfMemoryError || error is NegativeArraySizeException || OUT_OF_MEMORY.containsMatchIn(oneLine(error)) ->
        RunError("$what: out of memory (${oneLine(error)}); $FEWER_BYTES")
    else -> RunError("$what: ${oneLine(error)}")
}
