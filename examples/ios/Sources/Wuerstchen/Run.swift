import Foundation

/// What goes on in a run, for whoever wants to see it. What `step` throws ends the run.
public struct Watch {
    public var step: (_ name: String, _ done: Int, _ total: Int) throws -> Void = { _, _, _ in }
    /// Everything that is computed, in order, by the names of the golden run.
    public var tensor: (_ name: String, _ values: Tensor) throws -> Void = { _, _ in }
    public var truncated: (_ prompt: String, _ lost: String) -> Void = { _, _ in }

    public init() {}
}

/// Seconds that a graph took to be opened, and to run.
public struct Spent {
    public var load = 0.0
    public var run = 0.0
    public var runs = 0
}

// Pictures are made with scales up to 20 or so.
private let extremeGuidance = 100.0

/// One picture: the graphs in the order of the manifest's `host.run`, fed as it says. None is known by its name.
public final class Run {
    public private(set) var spent: [String: Spent] = [:]
    private let manifest: Manifest
    private let sessions: Sessions
    private let tokenizers: [String: Tokenizer]
    private let plan: Plan
    private let watch: Watch
    private var values: Tensors = [:]  // '<graph>.<output>' of the graphs that ran
    private var latents: Tensors = [:]  // each stage's, from its start on
    private var truncated: Set<String> = []  // texts that were too long, said once for all encoders

    public init(
        _ manifest: Manifest, _ sessions: Sessions, _ tokenizers: [String: Tokenizer], _ plan: Plan, _ watch: Watch = Watch()
    ) {
        self.manifest = manifest
        self.sessions = sessions
        self.tokenizers = tokenizers
        self.plan = plan
        self.watch = watch
    }

    /// The image (1,3,H,W), before it becomes bytes.
    public func image() throws -> Tensor {
        var outputs: Tensors = [:]
        for (index, call) in manifest.host.run.enumerated() {
            outputs = call.runs == "step" ? try denoise(call) : try once(call)
            forget(index)
        }
        guard let image = outputs["image"] ?? outputs.values.first else { throw HostError.run("no graph gave a picture") }
        return image
    }

    private func once(_ call: Call) throws -> Tensors {
        let feeds = try feeds(call, call.feeds, nil)
        let outputs = try timed(call.graph, [:], feeds)
        try see(call.graph, feeds)
        for (name, tensor) in outputs { try tensor.checkFinite("\(call.graph) (\(name))", advice(call)) }
        try see(call.graph, outputs)
        for (name, tensor) in outputs { values["\(call.graph).\(name)"] = tensor }
        try watch.step(call.graph, 1, 1)
        return outputs
    }

    /// A denoiser along its stage's schedule. Noise is drawn in the last step, too.
    private func denoise(_ call: Call) throws -> Tensors {
        let stage = plan.stage(call.stage)
        let changing = call.feeds.filter { $0.source == "sampler" }
        // What stays for all steps is bound once.
        let constants = try feeds(call, call.feeds.filter { $0.source != "sampler" }, nil)
        for (index, row) in stage.rows.enumerated() {
            let outputs = try timed(call.graph, index == 0 ? constants : nil, try feeds(call, changing, row))
            guard let epsilon = outputs["epsilon"] else { throw HostError.run("\(call.graph) gave no 'epsilon'") }
            latents[call.stage] = try step(call, index, epsilon)
            try watch.step(call.graph, index + 1, stage.rows.count)
        }
        return ["latents": try latents(of: call.stage)]
    }

    private func step(_ call: Call, _ index: Int, _ epsilon: Tensor) throws -> Tensor {
        let stage = plan.stage(call.stage)
        let row = stage.rows[index]
        let place = "\(call.graph), step \(index + 1) of \(stage.rows.count) (t = \(row.t))"
        try epsilon.checkFinite(place, advice(call))
        let noise = try plan.noise.draw(stage.shape)
        let next = try advance(row, latents(of: call.stage), epsilon, noise, stage.guidance)
        try next.checkFinite(place, advice(call))
        try see("\(call.stage)/\(index)", ["epsilon": epsilon, "noise": noise, "latents": next])
        return next
    }

    /// The stage's latents; its start is drawn when they are first asked for.
    private func latents(of stage: String) throws -> Tensor {
        if let there = latents[stage] { return there }
        let start = try plan.noise.draw(plan.stage(stage).shape)
        latents[stage] = start
        try watch.tensor("\(stage)/start.latents", start)
        return start
    }

    private func feeds(_ call: Call, _ feeds: [Feed], _ row: Row?) throws -> Tensors {
        var made: Tensors = [:]
        for feed in feeds { made[feed.input] = fitted(call, feed, try source(call, feed, row)) }
        return made
    }

    /// What a feed reads, before its rows fit the call.
    private func source(_ call: Call, _ feed: Feed, _ row: Row?) throws -> Tensor {
        switch (feed.source, feed.output) {
        case ("tokenizer", _): return encoded(call.graph, feed.output)
        case ("sampler", "latents"): return try latents(of: call.stage)
        case ("sampler", "image_embedding"): return imageEmbedding(try latents(of: "stage_c"), manifest.sampling)
        case ("sampler", _):
            let embedding = row?.embedding ?? []
            return Tensor([1, embedding.count], embedding)
        default:
            guard let value = values["\(feed.source).\(feed.output)"] else {
                throw HostError.run("host.run: nothing made '\(feed.source).\(feed.output)'")
            }
            return value
        }
    }

    /// A source's rows as the call takes them: both halves, or the conditional one alone.
    private func fitted(_ call: Call, _ feed: Feed, _ tensor: Tensor) -> Tensor {
        if call.rows != "guided" { return tensor }
        if !plan.isGuided(call) { return feed.unconditional == "negative_prompts" ? tensor.firstHalf : tensor }
        switch feed.unconditional {
        case "repeat": return tensor.followed(by: tensor)
        case "zeros": return tensor.followed(by: tensor.zeros)
        default: return tensor
        }
    }

    /// Ids or mask of the prompt, then of the negative prompt.
    private func encoded(_ graph: String, _ output: String) -> Tensor {
        let rows = [plan.options.prompt, plan.options.negative].map { text -> [Int64] in
            guard let encoding = tokenizers[graph]?.encode(text) else { return [] }
            if !encoding.truncated.isEmpty, truncated.insert(text).inserted { watch.truncated(text, encoding.truncated) }
            return output == "input_ids" ? encoding.ids : encoding.mask
        }
        return Tensor([2, rows[0].count], integers: rows[0] + rows[1])
    }

    /// `constants` nil are those of the run before.
    private func timed(_ graph: String, _ constants: Tensors?, _ feeds: Tensors) throws -> Tensors {
        let start = Date()
        let session = try sessions.session(graph)
        if let constants { try session.bind(constants) }
        let loaded = Date()
        let outputs = try session.run(feeds)
        spent[graph, default: Spent()].load += loaded.timeIntervalSince(start)
        spent[graph, default: Spent()].run += Date().timeIntervalSince(loaded)
        spent[graph, default: Spent()].runs += 1
        return outputs
    }

    private func see(_ owner: String, _ tensors: Tensors) throws {
        for (name, tensor) in tensors.sorted(by: { $0.key < $1.key }) { try watch.tensor("\(owner).\(name)", tensor) }
    }

    /// Let go of what no later graph reads.
    private func forget(_ index: Int) {
        let later = manifest.host.run.dropFirst(index + 1).flatMap(\.feeds)
        let read = Set(later.map { "\($0.source).\($0.output)" })
        values = values.filter { read.contains($0.key) }
    }

    /// What to do about values that are not finite.
    private func advice(_ call: Call) -> String {
        let (prior, decoder) = (plan.stage("stage_c").scale, plan.stage("stage_b").scale)
        if prior > extremeGuidance { return "lower --guidance, which is \(prior)" }
        if decoder > extremeGuidance { return "lower --decoder-guidance, which is \(decoder)" }
        if manifest.graphs[call.graph]?.precision != "fp32" {
            return "run a bundle of higher precision, and check this one with 'python -m validation'"
        }
        return "the weights hold such values, or the engine fails: run the golden check"
    }
}
