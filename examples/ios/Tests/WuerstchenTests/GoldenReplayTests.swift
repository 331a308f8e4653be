import Foundation
import XCTest

@testable import Wuerstchen

/// Known answers, and the golden run of the bundle that WUERSTCHEN_BUNDLE names, without an engine.
final class GoldenReplayTests: XCTestCase {
    private let rules = NoiseRules(uniformBits: 24, block: 16, minimum: 16)

    private func bundle() throws -> ModelBundle {
        guard let folder = ProcessInfo.processInfo.environment["WUERSTCHEN_BUNDLE"] else {
            throw XCTSkip("WUERSTCHEN_BUNDLE names no bundle")
        }
        return try ModelBundle(URL(fileURLWithPath: folder))
    }

    /// The answers of docs/hosting.md, which are torch.randn's.
    func testNoiseIsTorchRandn() throws {
        var words = Mt19937(seed: 0)
        XCTAssertEqual((0..<4).map { _ in words.word() }, [2_357_136_044, 2_546_248_239, 3_071_714_933, 3_626_093_760])
        let noise = TorchNoise(rules, seed: 1 << 40)  // its low 32 bits are 0
        let first = try noise.draw([16]).floats
        let second = try noise.draw([20]).floats
        let drawn = first.prefix(4) + second.prefix(4) + second.suffix(4)
        let known: [Float] = [
            -1.125840, -1.152360, -0.250579, -0.433879, -1.352654, -1.695931, 0.566651, 0.793508, 1.203224, 0.084535,
            -1.200140, -0.004786,
        ]
        for (mine, wanted) in zip(drawn, known) { XCTAssertEqual(mine, wanted, accuracy: 1e-6) }
    }

    func testHashIsSha256() throws {
        let file = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        defer { try? FileManager.default.removeItem(at: file) }
        try Data("abc".utf8).write(to: file)
        XCTAssertEqual(try sha256(file), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        try Data(repeating: 0x61, count: 1_000_000).write(to: file)
        XCTAssertEqual(try sha256(file), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
    }

    func testGoldenRunIsReplayed() throws {
        let bundle = try bundle()
        let check = Check(bundle, try loadTokenizers(bundle), try Recording(bundle))
        let compared = try check.replay()
        XCTAssertGreaterThan(compared.count, 50)
        for one in compared { XCTAssertTrue(one.holds, "\(one.failure(bundle.name))") }
        for one in try check.tokens() { XCTAssertTrue(one.holds, "\(one.failure(bundle.name))") }
    }

    func testPathsThatLeadOutOfTheFolderAreRefused() {
        XCTAssertNoThrow(try checkInside("a/b.json"))
        for path in ["../x", "a/../x", "/etc/x", "a\\..\\x", "c:/x", "a//b", "./a", ""] {
            XCTAssertThrowsError(try checkInside(path), path)
        }
    }

    func testPatternsAreThoseOfTokenizersAndNoOthers() throws {
        let words = try Pattern("'s|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+").matches(scalars("it's 12 €"))
        XCTAssertEqual(words.map { text(of: $0) }, ["it", "'s", "1", "2", "€"])
        for unknown in ["(a+)+b", "\\d", "[a", "a{9}"] { XCTAssertThrowsError(try Pattern(unknown), unknown) }
    }

    func testBytesAreRoundedToEven() throws {
        let values: [Float] = [-1, 0.5 / 255, 1.5 / 255, 2.5 / 255, 2, 0.25]
        let image = Tensor([1, 3, 1, 2], values)
        let picture = try Picture(image, PictureRules(clamp: 0...1, scale: 255))
        XCTAssertEqual(picture.pixels, [0, 2, 255, 0, 2, 64])
    }
}
