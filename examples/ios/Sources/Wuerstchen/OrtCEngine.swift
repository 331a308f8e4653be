#if canImport(COnnxRuntime)
import COnnxRuntime
import Foundation

/// ONNX Runtime by its C interface, on the CPU: what a desktop without Apple's frameworks has. Only its headers are
/// needed to build; its library is loaded when it is first used, for linking would pin one version.
final class OrtCEngine: Engine {
    fileprivate let api: OrtApi
    private let bundle: ModelBundle
    private let rules: SessionRules
    private let threads: Int?
    private var environment: OpaquePointer?

    init(_ bundle: ModelBundle, _ execution: Execution) throws {
        guard execution.units == nil || execution.units == "cpu" else {
            throw HostError.usage("--units \(execution.units ?? ""): ONNX Runtime's C interface runs here on 'cpu' alone")
        }
        guard let rules = bundle.manifest.host.sessions["onnxruntime"] else {
            throw HostError.usage("\(bundle.name): its manifest has no host.sessions.onnxruntime")
        }
        let api = try loadedApi()
        self.api = api
        self.bundle = bundle
        self.rules = rules
        threads = execution.threads
        try done(api.CreateEnv(ORT_LOGGING_LEVEL_FATAL, "wuerstchen", &environment), "ONNX Runtime does not start")
    }

    deinit { api.ReleaseEnv(environment) }

    func open(_ graph: String) throws -> Session {
        let spec = bundle.manifest.graphs[graph]!  // host.run was checked to name graphs that are there
        let file = try bundle.graphFile(graph)
        var options: OpaquePointer?
        try done(api.CreateSessionOptions(&options), "ONNX Runtime")
        defer { api.ReleaseSessionOptions(options) }
        if let threads { try done(api.SetIntraOpNumThreads(options, Int32(threads)), "--threads") }
        if rules.memoryPattern == false { try done(api.DisableMemPattern(options), "ONNX Runtime") }
        let config = spec.compute == "f32" ? rules.config.merging(rules.configF32) { $1 } : rules.config
        for (key, value) in config { try done(api.AddSessionConfigEntry(options, key, value), key) }
        var session: OpaquePointer?
        try done(api.CreateSession(environment, file.path, options, &session), "ONNX Runtime cannot load \(spec.file)")
        return try OrtCSession(graph, spec, self, session)
    }

    /// The CPU provider has fp16 kernels on ARM64 only: elsewhere each node is widened.
    func computes(_ graph: String) -> String {
        #if arch(arm64)
        if bundle.manifest.graphs[graph]?.precision == "fp16" { return "f16" }
        #endif
        return "f32"
    }

    /// HostError where a call gave a status.
    fileprivate func done(_ status: OpaquePointer?, _ what: String) throws {
        guard let status else { return }
        defer { api.ReleaseStatus(status) }
        throw asOurs(HostFault(text: api.GetErrorMessage(status).map { String(cString: $0) } ?? "no message"), what)
    }
}

private func loadedApi() throws -> OrtApi {
    // Its own builds gather and send unless told so before they load.
    setenv("ORT_DISABLE_TELEMETRY", "1", 0)
    let name = ProcessInfo.processInfo.environment["ONNXRUNTIME"] ?? "libonnxruntime.so.1"
    guard let library = dlopen(name, RTLD_NOW | RTLD_LOCAL), let function = dlsym(library, "OrtGetApiBase") else {
        let why = dlerror().map { oneLine(String(cString: $0)) } ?? name
        throw HostError.usage("ONNX Runtime does not load (\(why)); give its library's path in ONNXRUNTIME")
    }
    typealias Base = @convention(c) () -> UnsafePointer<OrtApiBase>?
    guard let base = unsafeBitCast(function, to: Base.self)(), let api = base.pointee.GetApi(UInt32(ORT_API_VERSION)) else {
        throw HostError.usage("\(name) is older than ONNX Runtime 1.\(ORT_API_VERSION), which this program was built for")
    }
    return api.pointee
}

private struct HostFault: LocalizedError {
    let text: String
    var errorDescription: String? { text }
}

/// A tensor in memory that ONNX Runtime reads in place.
private final class Native {
    let value: OpaquePointer?
    private let memory: UnsafeMutableRawPointer
    private let api: OrtApi

    init(_ tensor: Tensor, _ engine: OrtCEngine, _ place: OpaquePointer?) throws {
        api = engine.api
        let bytes: Int
        let type: ONNXTensorElementDataType
        switch tensor.values {
        case .floats(let all):
            (memory, bytes) = copied(all)
            type = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
        case .integers(let all):
            (memory, bytes) = copied(all)
            type = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
        }
        var made: OpaquePointer?
        let dims = tensor.dims.map(Int64.init)
        let status = api.CreateTensorWithDataAsOrtValue(place, memory, bytes, dims, dims.count, type, &made)
        value = made
        try engine.done(status, "ONNX Runtime")
    }

    deinit {
        api.ReleaseValue(value)
        memory.deallocate()
    }
}

private func copied<Value>(_ values: [Value]) -> (UnsafeMutableRawPointer, Int) {
    let bytes = values.count * MemoryLayout<Value>.stride
    let memory = UnsafeMutableRawPointer.allocate(byteCount: max(bytes, 1), alignment: 64)
    values.withUnsafeBytes { if let start = $0.baseAddress { memory.copyMemory(from: start, byteCount: bytes) } }
    return (memory, bytes)
}

private final class OrtCSession: Session {
    private let graph: String
    private let spec: Graph
    private let engine: OrtCEngine
    private let session: OpaquePointer?
    private var place: OpaquePointer?
    private var constants: [String: Native] = [:]

    init(_ graph: String, _ spec: Graph, _ engine: OrtCEngine, _ session: OpaquePointer?) throws {
        self.graph = graph
        self.spec = spec
        self.engine = engine
        self.session = session
        try engine.done(engine.api.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &place), "ONNX Runtime")
    }

    deinit {
        engine.api.ReleaseMemoryInfo(place)
        engine.api.ReleaseSession(session)
    }

    func bind(_ constants: Tensors) throws {
        self.constants = try constants.mapValues { try Native($0, engine, place) }
    }

    func run(_ feeds: Tensors) throws -> Tensors {
        let given = constants.merging(try feeds.mapValues { try Native($0, engine, place) }) { $1 }
        let inputs = given.sorted { $0.key < $1.key }
        let outputs = spec.outputs.map(\.name)
        var results = [OpaquePointer?](repeating: nil, count: outputs.count)
        defer { results.forEach { engine.api.ReleaseValue($0) } }
        let names = (inputs.map(\.key) + outputs).map { strdup($0) }
        defer { names.forEach { free($0) } }
        let texts = names.map { UnsafePointer($0) }
        // The inputs' memory has to stay until the run is over.
        let status = withExtendedLifetime(given) {
            engine.api.Run(
                session, nil, Array(texts.prefix(inputs.count)), inputs.map(\.value.value), inputs.count,
                Array(texts.dropFirst(inputs.count)), outputs.count, &results)
        }
        try engine.done(status, "ONNX Runtime failed in \(graph)")
        return Dictionary(uniqueKeysWithValues: try zip(outputs, results).map { ($0, try tensor($0, $1)) })
    }

    private func tensor(_ name: String, _ value: OpaquePointer?) throws -> Tensor {
        let api = engine.api
        var info: OpaquePointer?
        try engine.done(api.GetTensorTypeAndShape(value, &info), name)
        defer { api.ReleaseTensorTypeAndShapeInfo(info) }
        var type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED
        var rank = 0
        try engine.done(api.GetTensorElementType(info, &type), name)
        try engine.done(api.GetDimensionsCount(info, &rank), name)
        guard type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT else {
            throw HostError.run("'\(name)' of \(graph) is not float32, as the manifest says")
        }
        var dims = [Int64](repeating: 0, count: rank)
        try engine.done(api.GetDimensions(info, &dims, rank), name)
        var data: UnsafeMutableRawPointer?
        try engine.done(api.GetTensorMutableData(value, &data), name)
        let count = dims.reduce(1, *)
        let floats = UnsafeBufferPointer(start: data?.assumingMemoryBound(to: Float.self), count: Int(count))
        return Tensor(dims.map(Int.init), Array(floats))
    }
}
#endif
