import Foundation

/// Rows of red, green and blue bytes.
public struct Picture {
    public let height: Int
    public let width: Int
    public let pixels: [UInt8]

    /// The bytes of one image (1,3,H,W), by the manifest's `host.picture`.
    public init(_ image: Tensor, _ rules: PictureRules) throws {
        guard image.dims.count == 4, image.dims[0] == 1, image.dims[1] == 3 else {
            throw HostError.run("the last graph gave \(image.dims) values, which is no picture")
        }
        (height, width) = (image.dims[2], image.dims[3])
        let (area, values) = (height * width, image.floats)
        pixels = (0..<area * 3).map { at in
            let value = min(max(values[at % 3 * area + at / 3], rules.clamp.lowerBound), rules.clamp.upperBound)
            return UInt8((value * rules.scale).rounded(.toNearestOrEven))
        }
    }

    /// A PNG file of 8-bit RGB with texts, Latin-1 keys and UTF-8 values, beside the picture. Nothing is packed:
    /// zlib is no part of Swift, and a phone's own libraries write smaller files.
    public func png(_ texts: [String: String] = [:]) -> Data {
        var file: [UInt8] = [0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]
        // 8 bits, RGB, and the only methods there are.
        chunk(&file, "IHDR", bytes(UInt32(width)) + bytes(UInt32(height)) + [8, 2, 0, 0, 0])
        for (key, text) in texts.sorted(by: { $0.key < $1.key }) {
            chunk(&file, "iTXt", Array(key.utf8) + [0, 0, 0, 0, 0] + Array(text.utf8))
        }
        let stride = width * 3
        chunk(&file, "IDAT", stored((0..<height).flatMap { [0] + pixels[$0 * stride..<($0 + 1) * stride] }))
        chunk(&file, "IEND", [])
        return Data(file)
    }
}

/// A zlib stream of blocks that are stored as they are.
private func stored(_ data: [UInt8]) -> [UInt8] {
    var stream: [UInt8] = [0x78, 0x01]
    for start in stride(from: 0, to: data.count, by: 65_535) {
        let block = data[start..<min(start + 65_535, data.count)]
        let size = UInt16(block.count)
        stream.append(start + block.count == data.count ? 1 : 0)
        for word in [size, ~size] { stream += [UInt8(word & 0xff), UInt8(word >> 8)] }
        stream += block
    }
    var (sum, sums): (UInt32, UInt32) = (1, 0)
    for byte in data {
        sum = (sum + UInt32(byte)) % 65_521
        sums = (sums + sum) % 65_521
    }
    return stream + bytes(sums << 16 | sum)
}

private func chunk(_ file: inout [UInt8], _ type: String, _ data: [UInt8]) {
    let body = Array(type.utf8) + data
    let crc = ~body.reduce(~UInt32(0)) { crcTable[Int(($0 ^ UInt32($1)) & 0xff)] ^ $0 >> 8 }
    file += bytes(UInt32(data.count)) + body + bytes(crc)
}

private let crcTable: [UInt32] = (UInt32(0)..<256).map { byte in
    (0..<8).reduce(byte) { value, _ in value & 1 == 1 ? value >> 1 ^ 0xedb8_8320 : value >> 1 }
}

private func bytes(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32(24 - 8 * $0)) } }
