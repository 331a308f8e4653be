import Foundation

/// One comparison: a tensor's error, or with `decibels` how many it keeps, and the limit of that.
public struct Compared {
    public let what: String
    public let tensor: String
    public let error: Double
    public let limit: Double
    public var decibels = false

    public var holds: Bool { decibels ? error >= limit : error <= limit }

    /// HostError naming the tensor that differs.
    public func failure(_ name: String) -> HostError {
        let said = decibels
            ? "keeps \(short(error)) dB of the golden run, \(short(limit)) dB are wanted"
            : "is \(short(error)) off the golden run, \(short(limit)) is allowed"
        return .run("\(name): \(what): '\(tensor)' is the first tensor that differs: it \(said)")
    }
}

public func short(_ value: Double) -> String { String(format: "%.3g", value) }

/// One line a kind of comparison: the worst of its tensors.
public func summary(_ compared: [Compared]) -> [String] {
    var worst: [(what: String, one: Compared)] = []
    for one in compared {
        guard let at = worst.firstIndex(where: { $0.what == one.what }) else {
            worst.append((one.what, one))
            continue
        }
        if one.decibels ? one.error < worst[at].one.error : one.error > worst[at].one.error { worst[at].one = one }
    }
    return worst.map { what, one in
        one.decibels
            ? "\(what): \(short(one.error)) dB (at least \(short(one.limit)))"
            : "\(what): error \(short(one.error)) (at most \(short(one.limit)))"
    }
}

// Absolute. PyTorch computes its noise in single precision, a few units in the last place of values up to 5;
// steps magnify last bits up to 100 times; tables may come from another machine's cosine.
private let noiseLimit = 2e-6
private let replayedLimit = 1e-3
private let tablesLimit = 1e-4

/// The golden check, in the order in which a host goes wrong: `replay` without an engine, the ids of prompts, each
/// graph on recorded inputs, a run of its own. Everything is one run with another engine below it; every tensor is
/// compared as the run computes it.
public final class Check {
    private let bundle: ModelBundle
    private let tokenizers: [String: Tokenizer]
    private let recording: Recording
    private var manifest: Manifest { bundle.manifest }

    /// Prompts that `tokens` left out: they differ, and have characters that this system's Unicode does not know.
    public private(set) var leftOut: [String] = []

    public init(_ bundle: ModelBundle, _ tokenizers: [String: Tokenizer], _ recording: Recording) {
        self.bundle = bundle
        self.tokenizers = tokenizers
        self.recording = recording
    }

    /// Everything that is a host's own work, where the recorded outputs stand in for the graphs.
    public func replay() throws -> [Compared] {
        var compared = stageNames.flatMap(tables)
        try run(ReplayedEngine(manifest: manifest, recording: recording)) { name, values in
            if let one = self.replayed(name, values) { compared.append(one) }
        }
        return compared
    }

    /// The manifest's schedule and timestep embeddings, computed again from its constants.
    private func tables(_ name: String) -> [Compared] {
        let denoiser = manifest.sampling.denoisers[name]!  // read by these names
        let rows = computedRows(denoiser, manifest.host.schedule, denoiser.timesteps)
        func compared(_ table: String, _ values: (Row) -> [Float]) -> Compared {
            let (mine, theirs) = (rows.flatMap(values), denoiser.rows.flatMap(values))
            return Compared(
                what: "replay: \(name): schedule and timestep embeddings", tensor: "sampling.\(name).\(table)",
                error: largestError(Tensor([mine.count], mine), Tensor([theirs.count], theirs)), limit: tablesLimit)
        }
        return [compared("schedule") { [$0.t, $0.a, $0.b, $0.c] }, compared("embeddings") { $0.embedding }]
    }

    private func replayed(_ name: String, _ values: Tensor) -> Compared? {
        guard let golden = recording.tensors[name], !name.hasSuffix(".epsilon") else { return nil }  // was handed out
        let isNoise = name.hasSuffix("/start.latents") || name.hasSuffix(".noise")
        let isComputed = name.hasSuffix("latents") || name.hasSuffix("image_embedding")
        let stage = name.split(separator: "/")
        let kind = isNoise ? "noise" : "latents after every step"
        return Compared(
            what: stage.count > 1 ? "replay: \(stage[0]): \(kind)" : "replay: wiring", tensor: name,
            error: largestError(values, golden), limit: isNoise ? noiseLimit : isComputed ? replayedLimit : 0)
    }

    /// The ids of every prompt of golden/tokens.json.
    public func tokens() throws -> [Compared] {
        guard !manifest.host.tokens.isEmpty else { return [] }
        return try bundle.json(manifest.host.tokens).list().flatMap { entry -> [Compared] in
            let prompt = try entry.at("prompt").text()
            return try entry.at("input_ids").entries().sorted { $0.key < $1.key }.compactMap { graph, ids -> Compared? in
                guard let encoding = tokenizers[graph]?.encode(prompt) else {
                    throw HostError.run("\(bundle.name): \(graph) has no tokenizer")
                }
                let wanted = try ids.list().map { Int64(try $0.whole()) }
                let length = try entry.at("length").at(graph).whole()
                let differing = zip(wanted, encoding.ids).filter { $0 != $1 }.count + abs(wanted.count - encoding.ids.count)
                let error = differing + abs(Int(encoding.mask.reduce(0, +)) - length)
                if error > 0, scalars(prompt).contains(where: isUnassigned) {
                    leftOut.append(prompt)
                    return nil
                }
                return Compared(what: "tokens", tensor: "\(graph).input_ids of '\(prompt.prefix(40))'", error: Double(error), limit: 0)
            }
        }
    }

    /// Each graph on its recorded inputs: its own outputs are compared, then the recorded ones go on.
    public func graphs(_ engine: Engine) throws -> [Compared] {
        let forced = ForcedEngine(manifest: manifest, recording: recording, engine: engine, limit: { try self.tolerance(engine, $0).graphError })
        try run(forced) { _, _ in }
        return forced.compared
    }

    private func tolerance(_ engine: Engine, _ graph: String) throws -> Tolerance {
        let all = manifest.host.tolerances[graph] ?? []
        guard let found = all.first(where: { $0.compute == engine.computes(graph) }) ?? all.first(where: { $0.compute == "f32" })
        else { throw HostError.run("host.tolerances has none for \(graph) in \(engine.computes(graph))") }
        return found
    }

    /// A run of its own from the golden prompt and seed, by the loosest tolerance of all its graphs.
    public func ownRun(_ engine: Engine) throws -> [Compared] {
        let all = try manifest.host.run.map { try tolerance(engine, $0.graph) }
        let latentDb = all.map(\.latentDb).min() ?? 0
        let pictureDb = all.map(\.pictureDb).min() ?? 0
        var compared: [Compared] = []
        try run(engine) { name, values in
            guard let golden = self.recording.tensors[name] else { return }
            if name.contains("/"), name.hasSuffix(".latents"), !name.hasSuffix("/start.latents") {
                compared.append(
                    Compared(
                        what: "own run: latents after every step", tensor: name, error: sqnr(values, golden),
                        limit: latentDb, decibels: true))
            } else if name.hasSuffix(".image") {
                compared.append(
                    Compared(what: "own run: picture", tensor: name, error: psnr(values, golden), limit: pictureDb, decibels: true))
            }
        }
        return compared
    }

    private func run(_ engine: Engine, _ see: @escaping (String, Tensor) throws -> Void) throws {
        var watch = Watch()
        watch.tensor = see
        let plan = try Plan(manifest, recording.options)
        _ = try Run(manifest, Sessions(engine, oneAtATime: true), tokenizers, plan, watch).image()
    }
}
