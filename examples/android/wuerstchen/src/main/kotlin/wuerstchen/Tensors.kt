package wuerstchen

/** Sides and values, row by row; ids and masks are 64-bit integers, all else is fp32. */
sealed class Tensor(val dims: LongArray) {
    abstract val size: Int
    abstract fun at(index: Int): Double

    /** The values from one place to another, as a tensor of [rows] rows. */
    abstract fun part(from: Int, to: Int, rows: Long): Tensor

    abstract fun plus(other: Tensor): Tensor

    abstract fun zeros(): Tensor

    protected fun withRows(rows: Long): LongArray = dims.copyOf().also { it[0] = rows }
}

class Floats(dims: LongArray, val data: FloatArray) : Tensor(dims) {
    override val size get() = data.size
    override fun at(index: Int) = data[index].toDouble()
    override fun part(from: Int, to: Int, rows: Long) = Floats(withRows(rows), data.copyOfRange(from, to))
    override fun plus(other: Tensor) = Floats(withRows(dims[0] + other.dims[0]), data + (other as Floats).data)
    override fun zeros() = Floats(dims, FloatArray(size))
}

class Longs(dims: LongArray, val data: LongArray) : Tensor(dims) {
    override val size get() = data.size
    override fun at(index: Int) = data[index].toDouble()
    override fun part(from: Int, to: Int, rows: Long) = Longs(withRows(rows), data.copyOfRange(from, to))
    override fun plus(other: Tensor) = Longs(withRows(dims[0] + other.dims[0]), data + (other as Longs).data)
    override fun zeros() = Longs(dims, LongArray(size))
}

/** Tensors by the names of a graph's inputs or outputs, in the manifest's order. */
typealias Tensors = Map<String, Tensor>

/** How many values a tensor of these sides has; RunError where no array holds as many. */
fun count(dims: LongArray): Int {
    val values = dims.fold(1.0) { product, side -> product * side }
    if (values > Int.MAX_VALUE - 8) throw RunError("out of memory: a tensor of ${dims.joinToString(" x ")} values")
    return values.toInt()
}

/** The rows of the first, then those of the second. */
fun concatRows(first: Tensor, second: Tensor): Tensor = first.plus(second)

fun firstHalf(tensor: Tensor): Tensor = tensor.part(0, tensor.size / 2, tensor.dims[0] / 2)

/** Each row as a tensor of its own. */
fun rowsOf(tensor: Tensor): List<Tensor> {
    val length = tensor.size / tensor.dims[0].toInt()
    return List(tensor.dims[0].toInt()) { row -> tensor.part(row * length, (row + 1) * length, 1) }
}

/** RunError when a tensor has a NaN or an infinity; [where] names graph and step. */
fun checkFinite(tensor: Tensor, where: String, advice: String) {
    val bad = if (tensor is Floats) tensor.data.count { !it.isFinite() } else 0
    if (bad > 0) throw RunError("$where gave $bad of ${tensor.size} values that are NaN or infinite; $advice")
}
