package wuerstchen

import java.io.File
import java.io.IOException
import java.security.MessageDigest

/**
 * A bundle's folder, its manifest read and checked. Files are hashed before they are used, each once for
 * as long as it stays as it is; no path leads out of the folder.
 */
class Bundle(folder: File) {
    /** What messages call it. */
    val name: String = folder.path

    private val root: File = folder.let { if (it.name == MANIFEST) it.absoluteFile.parentFile else it }.canonicalFile
    private val hashed = HashMap<String, Pair<Long, Long>>() // size and time of those that agreed
    val manifest: Manifest = read()

    private fun read(): Manifest {
        val file = File(root, MANIFEST)
        if (!file.isFile) throw RunError("$name is no bundle: it has no $MANIFEST; make one with 'python -m exporter'")
        val where = "$name: $MANIFEST"
        val json = Json.parse(file.readBytes(), where)
        try {
            checkKnown(json)
            // Before anything else: no file outside the folder is opened, not even to be hashed.
            json["files"].entries().keys.forEach(::checkInside)
            return readManifest(json).also { checkReferences(it); checkRun(it) }
        } catch (error: RunError) {
            throw RunError("$where: ${error.message}")
        }
    }

    /** Whether the manifest vouches for a file. */
    fun has(path: String): Boolean = path in manifest.files

    /** A file that is there and is the one the manifest names; RunError otherwise. */
    fun file(path: String): File {
        val wanted = manifest.files[path] ?: throw RunError("$name: the manifest names no $path")
        val file = File(root, path)
        if (!file.isFile) throw RunError("$name: $path is missing; export the bundle again")
        checkLink(path, file)
        if (file.length() != wanted.size) {
            throw RunError("$name: $path has ${file.length()} bytes, the manifest says ${wanted.size}; export the bundle again")
        }
        val state = Pair(file.length(), file.lastModified())
        if (hashed[path] != state) {
            if (sha256(file) != wanted.sha256) {
                throw RunError("$name: $path is not the file the manifest names (SHA-256 differs); export the bundle again")
            }
            hashed[path] = state
        }
        return file
    }

    fun bytes(path: String): ByteArray = file(path).readBytes()

    fun json(path: String): Json = Json.parse(bytes(path), "$name: $path")

    /** A graph's file; the engine finds the weights, hashed too, beside it by itself. */
    fun graphFile(graph: String): File {
        val spec = manifest.graphs.getValue(graph)
        spec.data.forEach { file(it.file) }
        return file(spec.file)
    }

    private fun checkLink(path: String, file: File) {
        val target = file.canonicalFile
        if (!target.startsWith(root)) {
            throw RunError("$name: $path links to $target, outside the bundle; copy it with its files (cp -rL)")
        }
    }
}

/** RunError unless parts are joined by '/', none of them empty, '.' or '..'; no '\', a separator elsewhere. */
fun checkInside(path: String) {
    val climbs = path.split('/').any { it == "" || it == "." || it == ".." } || path.any { it in "\\\u0000:" }
    if (climbs) throw RunError("it names '$path', a path outside the bundle")
}

/** Everything the manifest refers to is among the files it vouches for, under the name that the engine looks for. */
private fun checkReferences(manifest: Manifest) {
    for (graph in manifest.graphs.values) {
        for (data in graph.data) {
            checkInside(data.location)
            val beside = (graph.file.substringBeforeLast('/', "") + "/" + data.location).removePrefix("/")
            if (beside != data.file) throw RunError("'${data.location}' of ${graph.file} is not ${data.file}")
        }
    }
    val ofGraphs = manifest.graphs.values.flatMap { graph -> graph.data.map { it.file } + graph.file }
    val ofTexts = manifest.tokenizers.values.flatMap { listOf("${it.folder}/vocab.json", "${it.folder}/merges.txt") }
    val missing = (ofGraphs + ofTexts).firstOrNull { it !in manifest.files }
    if (missing != null) throw RunError("it names no $missing among its files")
}

private fun sha256(file: File): String {
    val digest = MessageDigest.getInstance("SHA-256")
    val piece = ByteArray(1 shl 20)
    try {
        file.inputStream().use { stream ->
            while (true) {
                val length = stream.read(piece)
                if (length < 0) break
                digest.update(piece, 0, length)
            }
        }
    } catch (error: IOException) {
        throw RunError("$file cannot be read: ${oneLine(error)}")
    }
    return digest.digest().joinToString("") { byte -> "%02x".format(byte) }
}
