#if canImport(CoreML)
import CoreML
import Foundation

private let computeUnits: [String: MLComputeUnits] = [
    "cpu": .cpuOnly, "gpu": .cpuAndGPU, "ane": .cpuAndNeuralEngine, "all": .all,
]

/// Core ML packages, compiled on the device when they are first opened, and kept beside the system's caches for as
/// long as the manifest names the same files.
final class CoreMLEngine: Engine {
    private let bundle: ModelBundle
    private let units: MLComputeUnits

    init(_ bundle: ModelBundle, _ execution: Execution) throws {
        guard execution.threads == nil else { throw HostError.usage("--threads is for ONNX Runtime: Core ML takes its own") }
        guard let units = computeUnits[execution.units ?? "all"] else {
            throw HostError.usage("--units \(execution.units ?? ""): Core ML has \(computeUnits.keys.sorted().joined(separator: ", "))")
        }
        self.bundle = bundle
        self.units = units
    }

    func open(_ graph: String) throws -> Session {
        let spec = bundle.manifest.graphs[graph]!  // host.run was checked to name graphs that are there
        let package = try bundle.graphFile(graph)
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units
        do {
            let compiled = try compiled(package, spec)
            return CoreMLGraph(graph, spec, try MLModel(contentsOf: compiled, configuration: configuration))
        } catch {
            throw asOurs(error, "Core ML cannot load \(spec.file)")
        }
    }

    /// GPU and Neural Engine compute in fp16, whatever is stored; a CPU in what the package holds.
    func computes(_ graph: String) -> String {
        units == .cpuOnly && bundle.manifest.graphs[graph]?.precision == "fp32" ? "f32" : "f16"
    }

    /// The compiled package, named by the hashes of all its files.
    private func compiled(_ package: URL, _ spec: Graph) throws -> URL {
        let hashes = filesOf(spec, bundle.manifest).compactMap { bundle.manifest.files[$0]?.sha256.prefix(16) }
        let caches = try FileManager.default.url(for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        let folder = caches.appendingPathComponent("wuerstchen", isDirectory: true)
        let kept = folder.appendingPathComponent(hashes.joined(separator: "-") + ".mlmodelc", isDirectory: true)
        if FileManager.default.fileExists(atPath: kept.path) { return kept }
        let made = try MLModel.compileModel(at: package)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try FileManager.default.moveItem(at: made, to: kept)
        return kept
    }
}

private final class CoreMLGraph: Session {
    private let graph: String
    private let spec: Graph
    private let model: MLModel
    private var constants: [String: MLFeatureValue] = [:]

    init(_ graph: String, _ spec: Graph, _ model: MLModel) {
        self.graph = graph
        self.spec = spec
        self.model = model
    }

    func bind(_ constants: Tensors) throws { self.constants = try constants.mapValues(feature) }

    func run(_ feeds: Tensors) throws -> Tensors {
        do {
            let inputs = constants.merging(try feeds.mapValues(feature)) { $1 }
            let results = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: inputs))
            return try Dictionary(uniqueKeysWithValues: spec.outputs.map { ($0.name, try tensor($0.name, results)) })
        } catch {
            throw asOurs(error, "Core ML failed in \(graph)")
        }
    }

    /// Core ML has no 64-bit integers: ids and masks are int32.
    private func feature(_ tensor: Tensor) throws -> MLFeatureValue {
        let shape = tensor.dims.map { NSNumber(value: $0) }
        switch tensor.values {
        case .floats(let all):
            let array = try MLMultiArray(shape: shape, dataType: .float32)
            array.withUnsafeMutableBytes { bytes, _ in bytes.copyBytes(from: all.withUnsafeBytes { Array($0) }) }
            return MLFeatureValue(multiArray: array)
        case .integers(let all):
            let array = try MLMultiArray(shape: shape, dataType: .int32)
            for (index, value) in all.enumerated() { array[index] = NSNumber(value: Int32(truncatingIfNeeded: value)) }
            return MLFeatureValue(multiArray: array)
        }
    }

    private func tensor(_ name: String, _ results: MLFeatureProvider) throws -> Tensor {
        guard let array = results.featureValue(for: name)?.multiArrayValue else {
            throw HostError.run("\(graph) gave no '\(name)'")
        }
        let dims = array.shape.map(\.intValue)
        let strides = array.strides.map(\.intValue)
        // Rows of GPU and Neural Engine may be padded: values are read by the array's own strides.
        let offsets = dims.indices.reduce([0]) { offsets, axis in
            offsets.flatMap { offset in (0..<dims[axis]).map { offset + $0 * strides[axis] } }
        }
        switch array.dataType {
        case .float32:
            return Tensor(dims, array.withUnsafeBytes { bytes in
                let values = bytes.bindMemory(to: Float.self)
                return offsets.map { values[$0] }
            })
        #if arch(arm64)
        case .float16:
            return Tensor(dims, array.withUnsafeBytes { bytes in
                let values = bytes.bindMemory(to: Float16.self)
                return offsets.map { Float(values[$0]) }
            })
        #endif
        default: throw HostError.run("'\(name)' of \(graph) is of a type this host does not know")
        }
    }
}
#endif
