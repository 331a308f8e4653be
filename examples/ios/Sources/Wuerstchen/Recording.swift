import Foundation

public let goldenName = "golden/run.safetensors"

/// The golden run of a bundle: every tensor by its name, and the options it was made with.
public struct Recording {
    public let tensors: Tensors
    public let options: Options

    public init(_ bundle: ModelBundle) throws {
        guard bundle.has(goldenName) else {
            throw HostError.run("\(bundle.name) has no golden run (\(goldenName)): export without --no-golden")
        }
        let place = "\(bundle.name): \(goldenName)"
        let (tensors, metadata) = try readSafetensors(bundle.data(goldenName), place)
        func value<Value>(_ name: String, _ read: (String) -> Value?) throws -> Value {
            guard let text = metadata[name] else { throw HostError.run("\(place) has no '\(name)' in its metadata") }
            guard let value = read(text) else { throw HostError.run("\(place): '\(name)' is '\(text)'") }
            return value
        }
        func steps(_ name: String) throws -> Int? { metadata[name] == "default" ? nil : try value(name) { Int($0) } }
        self.tensors = tensors
        var options = Options(prompt: try value("prompt") { $0 })
        options.negative = try value("negative_prompt") { $0 }
        options.seed = try value("seed") { Int64($0) }
        options.steps = try steps("steps")
        options.guidance = try value("guidance") { Double($0) }
        options.decoderSteps = try steps("decoder_steps")
        options.decoderGuidance = try value("decoder_guidance") { Double($0) }
        options.height = try value("height") { Int($0) }
        options.width = try value("width") { Int($0) }
        self.options = options
    }

    /// HostError where the golden run lacks a tensor that the manifest's host.run names.
    func get(_ name: String) throws -> Tensor {
        guard let tensor = tensors[name] else {
            throw HostError.run("the golden run has no '\(name)', which the manifest's host.run names")
        }
        return tensor
    }
}

/// Eight bytes of header length, a JSON header of offsets, then the values: fp32 or 64-bit integers.
func readSafetensors(_ data: Data, _ name: String) throws -> (Tensors, [String: String]) {
    let broken = HostError.run("\(name) is no safetensors file, or it is cut off; export the bundle again")
    guard data.count >= 8 else { throw broken }
    let length = (0..<8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64(data[data.startIndex + $1]) }
    guard length <= UInt64(data.count - 8) else { throw broken }
    let body = data.dropFirst(8 + Int(length))
    guard var header = try? Json.parse(data.dropFirst(8).prefix(Int(length)), name).entries() else { throw broken }
    let metadata = try header.removeValue(forKey: "__metadata__")?.textsByKey() ?? [:]
    return (try header.mapValues { try tensor($0, body, broken) }, metadata)
}

private func tensor(_ entry: Json, _ body: Data, _ broken: HostError) throws -> Tensor {
    let dims = try entry.at("shape").list().map { try $0.within(1...Int(Int32.max)) }
    let offsets = try entry.at("data_offsets").list().map { try $0.within(0...body.count) }
    guard offsets.count == 2, offsets[0] <= offsets[1] else { throw broken }
    let bytes = [UInt8](body.dropFirst(offsets[0]).prefix(offsets[1] - offsets[0]))
    let count = try valueCount(dims)
    func word<Word: FixedWidthInteger>(_ index: Int, _ type: Word.Type) -> Word {
        let size = MemoryLayout<Word>.size
        return (0..<size).reversed().reduce(0) { $0 << 8 | Word(truncatingIfNeeded: bytes[index * size + $1]) }
    }
    switch try entry.at("dtype").text() {
    case "F32" where bytes.count == count * 4:
        return Tensor(dims, (0..<count).map { Float(bitPattern: word($0, UInt32.self)) })
    case "I64" where bytes.count == count * 8:
        return Tensor(dims, integers: (0..<count).map { Int64(bitPattern: word($0, UInt64.self)) })
    default: throw broken
    }
}

/// The largest absolute difference of any value; infinite for another shape.
func largestError(_ values: Tensor, _ recorded: Tensor) -> Double {
    guard values.dims == recorded.dims else { return .infinity }
    return zip(values.doubles, recorded.doubles).reduce(0) { largest, pair in
        let error = abs(pair.0 - pair.1)
        return error <= largest ? largest : error.isNaN ? .infinity : error
    }
}

/// L2 norm of the difference over that of the recorded values; infinite for another shape.
func relativeError(_ values: Tensor, _ recorded: Tensor) -> Double {
    let norm = recorded.doubles.reduce(0) { $0 + $1 * $1 }.squareRoot()
    return rootOfSquares(values, recorded) / max(norm, .leastNonzeroMagnitude)
}

/// Signal to noise in decibels.
func sqnr(_ values: Tensor, _ recorded: Tensor) -> Double { -20 * log10(relativeError(values, recorded)) }

/// Peak signal to noise in decibels, of values in 0..1.
func psnr(_ values: Tensor, _ recorded: Tensor) -> Double {
    -20 * log10(rootOfSquares(values, recorded) / Double(recorded.count).squareRoot())
}

private func rootOfSquares(_ values: Tensor, _ recorded: Tensor) -> Double {
    guard values.dims == recorded.dims else { return .infinity }
    return zip(values.doubles, recorded.doubles).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }.squareRoot()
}
