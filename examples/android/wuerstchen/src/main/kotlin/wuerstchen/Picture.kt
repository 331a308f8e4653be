package wuerstchen

import java.io.ByteArrayOutputStream
import java.util.zip.CRC32
import java.util.zip.Deflater
import java.util.zip.DeflaterOutputStream
import kotlin.math.round

/** Rows of red, green and blue bytes. */
class Picture(val height: Int, val width: Int, val pixels: ByteArray) {
    /** As Android's Bitmap takes them: opaque, one whole number a pixel. */
    fun argb(): IntArray = IntArray(height * width) { i ->
        fun channel(offset: Int) = pixels[i * 3 + offset].toInt() and 0xff
        (0xff shl 24) or (channel(0) shl 16) or (channel(1) shl 8) or channel(2)
    }
}

/** The bytes of one image (1,3,H,W), by the manifest's `host.picture`. */
fun toBytes(image: Floats, rules: PictureRules): Picture {
    if (image.dims.size != 4 || image.dims[0] != 1L || image.dims[1] != 3L) {
        throw RunError("the last graph gave ${image.dims.joinToString(" x ")} values, which is no picture")
    }
    val (height, width) = image.dims.drop(2).map { it.toInt() }
    val area = height * width
    val pixels = ByteArray(area * 3) { at ->
        val value = image.data[at % 3 * area + at / 3].coerceIn(rules.least, rules.most) * rules.scale
        round(value).toInt().toByte() // to the nearest, halves to the even one
    }
    return Picture(height, width, pixels)
}

/** A PNG file of 8-bit RGB with texts, Latin-1 keys and UTF-8 values, beside the picture. */
fun encodePng(picture: Picture, texts: Map<String, String>): ByteArray {
    val file = ByteArrayOutputStream()
    file.write(byteArrayOf(0x89.toByte(), 'P'.code.toByte(), 'N'.code.toByte(), 'G'.code.toByte(), 13, 10, 26, 10))
    // 8 bits, RGB, and the only methods there are.
    chunk(file, "IHDR", number(picture.width) + number(picture.height) + byteArrayOf(8, 2, 0, 0, 0))
    texts.forEach { (key, text) -> chunk(file, "iTXt", key.toByteArray(Charsets.ISO_8859_1) + ByteArray(5) + text.toByteArray()) }
    chunk(file, "IDAT", packed(picture))
    chunk(file, "IEND", ByteArray(0))
    return file.toByteArray()
}

/** Each row with its filter before it: 2, the difference to the row above, which packs better than none. */
private fun packed(picture: Picture): ByteArray {
    val stride = picture.width * 3
    val packed = ByteArrayOutputStream()
    DeflaterOutputStream(packed, Deflater()).use { stream ->
        for (y in 0 until picture.height) {
            val row = ByteArray(stride) { x ->
                val above = if (y > 0) picture.pixels[(y - 1) * stride + x] else 0
                (picture.pixels[y * stride + x] - above).toByte()
            }
            stream.write(2)
            stream.write(row)
        }
    }
    return packed.toByteArray()
}

private fun chunk(file: ByteArrayOutputStream, type: String, data: ByteArray) {
    val body = type.toByteArray(Charsets.ISO_8859_1) + data
    file.write(number(data.size))
    file.write(body)
    file.write(number(CRC32().apply { update(body) }.value.toInt()))
}

private fun number(value: Int) = ByteArray(4) { (value ushr (24 - 8 * it)).toByte() }
