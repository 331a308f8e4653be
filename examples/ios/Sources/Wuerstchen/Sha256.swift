import Foundation

#if canImport(CryptoKit)
import CryptoKit

/// Hex SHA-256 of a file, read in pieces.
func sha256(_ file: URL) throws -> String {
    var hash = SHA256()
    try inPieces(file) { hash.update(data: $0) }
    return hash.finalize().map { String(format: "%02x", $0) }.joined()
}
#else
/// Hex SHA-256 of a file, read in pieces: FIPS 180-4, where the system brings none.
func sha256(_ file: URL) throws -> String {
    var hash = Sha256()
    try inPieces(file) { hash.update([UInt8]($0)) }
    return hash.hex()
}

struct Sha256 {
    private var state: [UInt32] = fractions(of: 8) { $0.squareRoot() }
    private static let constants: [UInt32] = fractions(of: 64, cbrt)
    private var words = [UInt32](repeating: 0, count: 64)
    private var rest: [UInt8] = []
    private var length: UInt64 = 0

    mutating func update(_ bytes: [UInt8]) {
        length += UInt64(bytes.count)
        let all = rest + bytes
        let whole = all.count / 64 * 64
        all.withUnsafeBufferPointer { buffer in
            for start in stride(from: 0, to: whole, by: 64) { block(buffer, start) }
        }
        rest = Array(all[whole...])
    }

    mutating func hex() -> String {
        let bits = length * 8
        var tail: [UInt8] = [0x80]
        while (rest.count + tail.count) % 64 != 56 { tail.append(0) }
        update(tail + (0..<8).map { UInt8(truncatingIfNeeded: bits >> UInt64(56 - 8 * $0)) })
        return state.map { word in
            let digits = String(word, radix: 16)
            return String(repeating: "0", count: 8 - digits.count) + digits
        }.joined()
    }

    private mutating func block(_ bytes: UnsafeBufferPointer<UInt8>, _ start: Int) {
        for i in 0..<16 {
            let at = start + 4 * i
            let high = UInt32(bytes[at]) << 24 | UInt32(bytes[at + 1]) << 16
            words[i] = high | UInt32(bytes[at + 2]) << 8 | UInt32(bytes[at + 3])
        }
        for i in 16..<64 {
            let (a, b) = (words[i - 15], words[i - 2])
            let first = turned(a, 7) ^ turned(a, 18) ^ a >> 3
            let second = turned(b, 17) ^ turned(b, 19) ^ b >> 10
            words[i] = words[i - 16] &+ first &+ words[i - 7] &+ second
        }
        var (a, b, c, d) = (state[0], state[1], state[2], state[3])
        var (e, f, g, h) = (state[4], state[5], state[6], state[7])
        Sha256.constants.withUnsafeBufferPointer { constants in
            for i in 0..<64 {
                let mixed = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)
                let first = h &+ mixed &+ (e & f ^ ~e & g) &+ constants[i] &+ words[i]
                let second = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) &+ (a & b ^ a & c ^ b & c)
                (h, g, f, e, d, c, b, a) = (g, f, e, d &+ first, c, b, a, first &+ second)
            }
        }
        for (i, value) in [a, b, c, d, e, f, g, h].enumerated() { state[i] = state[i] &+ value }
    }
}

private func turned(_ word: UInt32, _ bits: UInt32) -> UInt32 { word >> bits | word << (32 - bits) }

/// The first 32 bits of the fractional parts of roots of the first primes: the standard's constants.
private func fractions(of count: Int, _ root: (Double) -> Double) -> [UInt32] {
    let primes = (2...311).filter { n in !(2..<n).contains { n % $0 == 0 } }
    return primes.prefix(count).map { prime in
        let value = root(Double(prime))
        return UInt32((value - value.rounded(.down)) * 4_294_967_296)
    }
}
#endif

private func inPieces(_ file: URL, _ take: (Data) -> Void) throws {
    let handle = try FileHandle(forReadingFrom: file)
    defer { try? handle.close() }
    while let piece = try handle.read(upToCount: 1 << 20), !piece.isEmpty { take(piece) }
}
