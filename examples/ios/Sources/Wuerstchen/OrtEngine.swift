#if canImport(OnnxRuntimeBindings)
import Foundation
import OnnxRuntimeBindings

/// ONNX Runtime by its Objective-C interface, as its Swift package has it. Graphs are opened by their paths: weights
/// are mapped from the file. That interface has no switch for the memory pattern, which the manifest may ask to be off.
final class OrtEngine: Engine {
    private let bundle: ModelBundle
    private let rules: SessionRules
    private let threads: Int?
    private let units: String
    private let environment: ORTEnv

    init(_ bundle: ModelBundle, _ execution: Execution) throws {
        guard let rules = bundle.manifest.host.sessions["onnxruntime"] else {
            throw HostError.usage("\(bundle.name): its manifest has no host.sessions.onnxruntime")
        }
        units = execution.units ?? "cpu"
        guard ["cpu", "xnnpack", "coreml"].contains(units) else {
            throw HostError.usage("--units \(units): ONNX Runtime has cpu, xnnpack and coreml")
        }
        guard units != "coreml" || ORTIsCoreMLExecutionProviderAvailable() else {
            throw HostError.usage("--units coreml: this build of ONNX Runtime has no Core ML")
        }
        // Its own builds gather and send unless told so before they start.
        setenv("ORT_DISABLE_TELEMETRY", "1", 0)
        self.bundle = bundle
        self.rules = rules
        threads = execution.threads
        do {
            environment = try ORTEnv(loggingLevel: .fatal)
        } catch {
            throw asOurs(error, "ONNX Runtime does not start")
        }
    }

    func open(_ graph: String) throws -> Session {
        let spec = bundle.manifest.graphs[graph]!  // host.run was checked to name graphs that are there
        let file = try bundle.graphFile(graph)
        do {
            let session = try ORTSession(env: environment, modelPath: file.path, sessionOptions: options(spec))
            return OrtGraph(graph, spec, session)
        } catch {
            throw asOurs(error, "ONNX Runtime cannot load \(spec.file)")
        }
    }

    /// The CPU provider has fp16 kernels on ARM64; Core ML's provider computes in fp16 where it may.
    func computes(_ graph: String) -> String {
        let isFp16 = bundle.manifest.graphs[graph]?.precision == "fp16"
        #if arch(arm64)
        return isFp16 || units == "coreml" ? "f16" : "f32"
        #else
        return units == "coreml" ? "f16" : "f32"
        #endif
    }

    private func options(_ spec: Graph) throws -> ORTSessionOptions {
        let options = try ORTSessionOptions()
        try options.setLogSeverityLevel(.fatal)  // errors are thrown
        let config = spec.compute == "f32" ? rules.config.merging(rules.configF32) { $1 } : rules.config
        for (key, value) in config { try options.addConfigEntry(withKey: key, value: value) }
        switch units {
        case "xnnpack":
            // It has threads of its own; ONNX Runtime's would spin beside them.
            try options.setIntraOpNumThreads(1)
            try options.addConfigEntry(withKey: "session.intra_op.allow_spinning", value: "0")
            let provider = ORTXnnpackExecutionProviderOptions()
            provider.intra_op_num_threads = Int32(threads ?? ProcessInfo.processInfo.activeProcessorCount)
            try options.appendXnnpackExecutionProvider(with: provider)
        case "coreml":
            try options.appendCoreMLExecutionProvider(with: ORTCoreMLExecutionProviderOptions())
        default:
            if let threads { try options.setIntraOpNumThreads(Int32(threads)) }
        }
        return options
    }
}

private final class OrtGraph: Session {
    private let graph: String
    private let spec: Graph
    private let session: ORTSession
    private var constants: [String: ORTValue] = [:]

    init(_ graph: String, _ spec: Graph, _ session: ORTSession) {
        self.graph = graph
        self.spec = spec
        self.session = session
    }

    func bind(_ constants: Tensors) throws { self.constants = try constants.mapValues(native) }

    func run(_ feeds: Tensors) throws -> Tensors {
        do {
            let inputs = constants.merging(try feeds.mapValues(native)) { $1 }
            let results = try session.run(
                withInputs: inputs, outputNames: Set(spec.outputs.map(\.name)), runOptions: nil)
            return try Dictionary(uniqueKeysWithValues: results.map { ($0, try tensor($0, $1)) })
        } catch {
            throw asOurs(error, "ONNX Runtime failed in \(graph)")
        }
    }

    private func native(_ tensor: Tensor) throws -> ORTValue {
        let shape = tensor.dims.map { NSNumber(value: $0) }
        switch tensor.values {
        case .floats(let all):
            let data = all.withUnsafeBytes { NSMutableData(bytes: $0.baseAddress, length: $0.count) }
            return try ORTValue(tensorData: data, elementType: .float, shape: shape)
        case .integers(let all):
            let data = all.withUnsafeBytes { NSMutableData(bytes: $0.baseAddress, length: $0.count) }
            return try ORTValue(tensorData: data, elementType: .int64, shape: shape)
        }
    }

    private func tensor(_ name: String, _ value: ORTValue) throws -> Tensor {
        let info = try value.tensorTypeAndShapeInfo()
        guard info.elementType == .float else {
            throw HostError.run("'\(name)' of \(graph) is not float32, as the manifest says")
        }
        let data = try value.tensorData() as Data
        let floats = data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        return Tensor(info.shape.map(\.intValue), floats)
    }
}
#endif
