import Foundation

/// Values row by row: ids and masks are 64-bit integers, all else is fp32.
public enum Values: Equatable {
    case floats([Float])
    case integers([Int64])
}

/// Sides and values.
public struct Tensor: Equatable {
    public let dims: [Int]
    public let values: Values

    public init(_ dims: [Int], _ floats: [Float]) {
        self.dims = dims
        values = .floats(floats)
    }

    public init(_ dims: [Int], integers: [Int64]) {
        self.dims = dims
        values = .integers(integers)
    }

    public var count: Int {
        switch values {
        case .floats(let all): all.count
        case .integers(let all): all.count
        }
    }

    /// The values as fp32, which all but ids and masks are.
    public var floats: [Float] {
        switch values {
        case .floats(let all): all
        case .integers(let all): all.map(Float.init)
        }
    }

    public var doubles: [Double] {
        switch values {
        case .floats(let all): all.map(Double.init)
        case .integers(let all): all.map(Double.init)
        }
    }

    /// The rows of this one, then those of another.
    public func followed(by other: Tensor) -> Tensor {
        let rows = [dims[0] + other.dims[0]] + dims.dropFirst()
        switch (values, other.values) {
        case (.floats(let first), .floats(let second)): return Tensor(rows, first + second)
        case (.integers(let first), .integers(let second)): return Tensor(rows, integers: first + second)
        default: return Tensor(rows, floats + other.floats)
        }
    }

    public var firstHalf: Tensor {
        let rows = [dims[0] / 2] + dims.dropFirst()
        switch values {
        case .floats(let all): return Tensor(rows, Array(all.prefix(all.count / 2)))
        case .integers(let all): return Tensor(rows, integers: Array(all.prefix(all.count / 2)))
        }
    }

    public var zeros: Tensor { Tensor(dims, [Float](repeating: 0, count: count)) }

    /// HostError when there is a NaN or an infinity; `place` names graph and step.
    func checkFinite(_ place: String, _ advice: String) throws {
        guard case .floats(let all) = values else { return }
        let bad = all.reduce(0) { $1.isFinite ? $0 : $0 + 1 }
        guard bad == 0 else {
            throw HostError.run("\(place) gave \(bad) of \(all.count) values that are NaN or infinite; \(advice)")
        }
    }
}

/// Tensors by the names of a graph's inputs or outputs.
public typealias Tensors = [String: Tensor]

/// How many values a tensor of these sides has; HostError where no memory holds as many.
func valueCount(_ dims: [Int]) throws -> Int {
    guard dims.reduce(1.0, { $0 * Double($1) }) < Double(Int32.max) else {
        throw HostError.run("out of memory: a tensor of \(dims.map(String.init).joined(separator: " x ")) values")
    }
    return dims.reduce(1, *)
}
