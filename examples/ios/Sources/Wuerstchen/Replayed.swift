import Foundation

/// An engine that hands out a golden run's outputs.
struct ReplayedEngine: Engine {
    let manifest: Manifest
    let recording: Recording

    func open(_ graph: String) throws -> Session { try Replayed(graph, manifest, recording) }
    func computes(_ graph: String) -> String { "f32" }
}

/// A graph's recorded outputs, of a denoiser one step's a run.
final class Replayed: Session {
    private let graph: String
    private let call: Call
    private let outputs: [String]
    private let recording: Recording
    private var step = -1

    init(_ graph: String, _ manifest: Manifest, _ recording: Recording) throws {
        guard let call = manifest.host.run.first(where: { $0.graph == graph }), let spec = manifest.graphs[graph] else {
            throw HostError.run("host.run: there is no graph '\(graph)'")
        }
        self.graph = graph
        self.call = call
        self.recording = recording
        outputs = spec.outputs.map(\.name)
    }

    /// What the golden run calls this graph, or its step.
    var owner: String { call.runs == "step" ? "\(call.stage)/\(step)" : graph }

    func bind(_ constants: Tensors) throws {}

    func run(_ feeds: Tensors) throws -> Tensors {
        step += 1
        var made: Tensors = [:]
        for name in outputs { made[name] = try recording.get("\(owner).\(name)") }
        return made
    }
}

/// An engine on recorded inputs: what it gives is compared with what was recorded, which goes on.
final class ForcedEngine: Engine {
    fileprivate let manifest: Manifest
    fileprivate let recording: Recording
    fileprivate let engine: Engine
    fileprivate let limit: (String) throws -> Double
    var compared: [Compared] = []

    init(manifest: Manifest, recording: Recording, engine: Engine, limit: @escaping (String) throws -> Double) {
        self.manifest = manifest
        self.recording = recording
        self.engine = engine
        self.limit = limit
    }

    func open(_ graph: String) throws -> Session { try Forced(graph, self) }
    func computes(_ graph: String) -> String { engine.computes(graph) }
}

private final class Forced: Session {
    private let graph: String
    private let owner: ForcedEngine
    private let session: Session
    private let golden: Replayed

    init(_ graph: String, _ owner: ForcedEngine) throws {
        self.graph = graph
        self.owner = owner
        session = try owner.engine.open(graph)
        golden = try Replayed(graph, owner.manifest, owner.recording)
    }

    func bind(_ constants: Tensors) throws { try session.bind(exact(constants)) }

    func run(_ feeds: Tensors) throws -> Tensors {
        let wanted = try golden.run(feeds)
        for (name, values) in try session.run(exact(feeds)) {
            guard let recorded = wanted[name] else { continue }
            owner.compared.append(
                Compared(
                    what: "graph \(graph)", tensor: "\(golden.owner).\(name)", error: relativeError(values, recorded),
                    limit: try owner.limit(graph)))
        }
        return wanted
    }

    /// The recorded inputs in place of those that only agree to the last bits.
    private func exact(_ feeds: Tensors) -> Tensors {
        Dictionary(uniqueKeysWithValues: feeds.map { ($0, owner.recording.tensors["\(graph).\($0)"] ?? $1) })
    }
}
