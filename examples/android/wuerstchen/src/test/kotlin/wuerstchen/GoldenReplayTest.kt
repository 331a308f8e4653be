package wuerstchen

import java.io.File
import kotlin.test.Test
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import org.junit.Assume.assumeNotNull

/** Known answers, and the golden run of the bundle that WUERSTCHEN_BUNDLE names, without an engine. */
class GoldenReplayTest {
    private val rules = NoiseRules(seedBits = 32, uniformBits = 24, block = 16, minimum = 16)

    /** The answers of docs/hosting.md, which are torch.randn's. */
    @Test
    fun noiseIsTorchRandn() {
        val words = Mt19937(0)
        val known = listOf(2_357_136_044L, 2_546_248_239L, 3_071_714_933L, 3_626_093_760L)
        assertEquals(known, List(4) { words.word().toLong() and 0xffffffffL })
        val noise = TorchNoise(rules, 1L shl 40) // its low 32 bits are 0
        val (first, second) = listOf(16L, 20L).map { noise.draw(longArrayOf(it)).data.toList() }
        val drawn = first.take(4) + second.take(4) + second.takeLast(4)
        val wanted = listOf(
            -1.125840f, -1.152360f, -0.250579f, -0.433879f, -1.352654f, -1.695931f, 0.566651f, 0.793508f, 1.203224f,
            0.084535f, -1.200140f, -0.004786f,
        )
        drawn.zip(wanted).forEach { (mine, theirs) -> assertEquals(theirs, mine, 1e-6f) }
    }

    @Test
    fun goldenRunIsReplayed() {
        val folder = System.getenv("WUERSTCHEN_BUNDLE")
        assumeNotNull(folder)
        val bundle = Bundle(File(folder))
        val check = Check(bundle, loadTokenizers(bundle), readRecording(bundle))
        val compared = check.replay()
        assertTrue(compared.size > 50)
        (compared + check.tokens()).forEach { assertTrue(it.holds, it.failure(bundle.name).message) }
    }

    @Test
    fun pathsThatLeadOutOfTheFolderAreRefused() {
        checkInside("a/b.json")
        for (path in listOf("../x", "a/../x", "/etc/x", "a\\..\\x", "c:/x", "a//b", "./a", "")) {
            assertFailsWith<RunError>(path) { checkInside(path) }
        }
    }

    @Test
    fun patternsAreThoseOfTokenizersAndNoOthers() {
        val words = Pattern("'s|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+").matches(codePoints("it's 12 €"))
        assertEquals(listOf("it", "'s", "1", "2", "€"), words.map(::textOf))
        for (unknown in listOf("(a+)+b", "\\d", "[a", "a{9}")) assertFailsWith<RunError>(unknown) { Pattern(unknown) }
    }

    @Test
    fun bytesAreRoundedToEven() {
        val image = Floats(longArrayOf(1, 3, 1, 2), floatArrayOf(-1f, 0.5f / 255, 1.5f / 255, 2.5f / 255, 2f, 0.25f))
        val picture = toBytes(image, PictureRules(0f, 1f, 255f))
        assertContentEquals(byteArrayOf(0, 2, -1, 0, 2, 64), picture.pixels)
    }
}
