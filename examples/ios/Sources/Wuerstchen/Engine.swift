import Foundation

/// A graph, open: constants are bound once, for what changes it is run. Errors are HostErrors.
public protocol Session: AnyObject {
    /// Inputs that stay the same from run to run.
    func bind(_ constants: Tensors) throws

    /// All outputs by name, from the other inputs.
    func run(_ feeds: Tensors) throws -> Tensors
}

/// The one interface between the run and what computes graphs.
public protocol Engine {
    func open(_ graph: String) throws -> Session

    /// What a graph's products are computed in: f32, f16 or bf16, by which the golden run's tolerances go.
    func computes(_ graph: String) -> String
}

/// How graphs are asked to run; nil is the engine's own default.
public struct Execution {
    public var threads: Int?
    /// Of Core ML: cpu, gpu, ane or all; of ONNX Runtime: cpu, xnnpack or coreml. What is not there is refused.
    public var units: String?

    public init() {}
}

/// The engine for a bundle's backend; HostError where this build has none.
public func makeEngine(_ bundle: ModelBundle, _ execution: Execution) throws -> Engine {
    switch bundle.manifest.backend {
    #if canImport(CoreML)
    case "coreml": return try CoreMLEngine(bundle, execution)
    #endif
    #if canImport(OnnxRuntimeBindings)
    case "onnx": return try OrtEngine(bundle, execution)
    #elseif canImport(COnnxRuntime)
    case "onnx": return try OrtCEngine(bundle, execution)
    #endif
    default: throw HostError.usage("this program was built without an engine for bundles for '\(bundle.manifest.backend)'")
    }
}

/// Open sessions: all that were used, or one at a time, which takes the memory of the largest graph alone.
public final class Sessions {
    private let engine: Engine
    private let oneAtATime: Bool
    private var open: [String: Session] = [:]

    public init(_ engine: Engine, oneAtATime: Bool) {
        self.engine = engine
        self.oneAtATime = oneAtATime
    }

    func session(_ graph: String) throws -> Session {
        if let session = open[graph] { return session }
        if oneAtATime { open.removeAll() }
        let session = try engine.open(graph)
        open[graph] = session
        return session
    }
}
