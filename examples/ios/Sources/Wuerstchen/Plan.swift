import Foundation

/// Heights and widths of latents and picture.
public struct Sizes {
    public let stageC: [Int]
    public let stageB: [Int]
    public let picture: [Int]
}

/// What a user may ask for; nil takes the bundle's default, which is the checkpoint's.
public struct Options {
    public var prompt: String
    public var negative = ""
    public var seed: Int64 = 0
    public var steps: Int?
    public var guidance: Double?
    public var decoderSteps: Int?
    public var decoderGuidance: Double?
    public var height: Int?
    public var width: Int?

    public init(prompt: String) { self.prompt = prompt }
}

/// `guidance` is nil where it is off; `scale` is what was asked for.
public struct Stage {
    public let rows: [Row]
    public let scale: Double
    public let guidance: Float?
    public let shape: [Int]
}

/// Options with every default filled in and checked, before anything is computed.
public struct Plan {
    public let options: Options
    public let sizes: Sizes
    public let stages: [String: Stage]
    let noise: TorchNoise

    public init(_ manifest: Manifest, _ options: Options) throws {
        self.options = options
        sizes = try sizesFor(manifest, options.height, options.width)
        stages = [
            "stage_c": try makeStage(manifest, "stage_c", options.steps, options.guidance, sizes.stageC),
            "stage_b": try makeStage(manifest, "stage_b", options.decoderSteps, options.decoderGuidance, sizes.stageB),
        ]
        noise = TorchNoise(manifest.host.noise, seed: options.seed)
        try checkFixedShapes(manifest, self)
    }

    /// The stage of a call that has one; the manifest was checked for it.
    func stage(_ name: String) -> Stage { stages[name]! }

    /// Whether a call's batch holds both halves of guidance.
    func isGuided(_ call: Call) -> Bool { call.rows == "guided" && stage(call.stage).guidance != nil }

    func batch(_ call: Call) -> Int { call.rows == "prompts_and_negatives" || isGuided(call) ? 2 : 1 }
}

private let mostSteps = 1_000_000

private func makeStage(_ manifest: Manifest, _ name: String, _ steps: Int?, _ asked: Double?, _ latents: [Int]) throws -> Stage {
    let denoiser = manifest.sampling.denoisers[name]!  // read by these names
    let scale = asked ?? denoiser.guidance
    guard scale.isFinite else { throw HostError.usage("the guidance scale is \(scale); it must be a number") }
    if let steps, !(1...mostSteps).contains(steps) {
        throw HostError.usage("the number of steps is \(steps); it must be 1 to \(mostSteps)")
    }
    return Stage(
        rows: rowsFor(denoiser, manifest.host.schedule, steps), scale: scale,
        guidance: scale > manifest.host.guidanceOffAt ? Float(scale) : nil, shape: [1, denoiser.channels] + latents)
}

/// Latent sizes of a picture asked for in pixels; what is made may differ a little, by two roundings.
/// HostError where Stage B's down and up path does not close, with the nearest sizes that do.
public func sizesFor(_ manifest: Manifest, _ height: Int?, _ width: Int?) throws -> Sizes {
    if height == nil && width == nil { return manifest.host.sizes[0] }
    let sampling = manifest.sampling
    let cells = [
        try cells(height ?? sampling.height, "height", sampling), try cells(width ?? sampling.width, "width", sampling),
    ]
    let latents = cells.map { latentSide($0, sampling) }
    return Sizes(stageC: cells, stageB: latents, picture: latents.map { $0 * sampling.stageAScale })
}

private func cells(_ pixels: Int, _ name: String, _ sampling: Sampling) throws -> Int {
    guard (1...largest).contains(pixels) else {
        throw HostError.usage("--\(name) is \(pixels); it must be 1 to \(largest) pixels")
    }
    let cells = Int((Double(pixels) / sampling.resolutionMultiple).rounded(.up))
    guard closes(cells, sampling) else {
        throw HostError.usage(
            "--\(name) \(pixels) gives Stage B a latent side of \(latentSide(cells, sampling)), no multiple of "
                + "\(sampling.stageBMultiple); \(nearest(cells, name, sampling))")
    }
    return cells
}

private func latentSide(_ cells: Int, _ sampling: Sampling) -> Int { Int(Double(cells) * sampling.latentDimScale) }

private func closes(_ cells: Int, _ sampling: Sampling) -> Bool {
    let side = latentSide(cells, sampling)
    return side > 0 && side % sampling.stageBMultiple == 0
}

private func nearest(_ cells: Int, _ name: String, _ sampling: Sampling) -> String {
    // A multiple of Stage B's side is met within this many cells, whatever the ratio.
    let reach = 64 * sampling.stageBMultiple
    let below = stride(from: cells - 1, to: max(0, cells - reach), by: -1).first { closes($0, sampling) }
    let above = (cells + 1..<cells + reach).first { closes($0, sampling) }
    let sides = [below, above].compactMap { $0 }.map { "\(Int(Double($0) * sampling.resolutionMultiple))" }
    switch sides.count {
    case 0: return "no \(name) is valid: this checkpoint's stages do not fit together"
    case 1: return "the nearest valid \(name) is \(sides[0])"
    default: return "the nearest valid \(name)s are \(sides.joined(separator: " and "))"
    }
}

/// HostError where graphs of fixed shape cannot serve this size or guidance.
private func checkFixedShapes(_ manifest: Manifest, _ plan: Plan) throws {
    func said(_ size: [Int]) -> String { size.map(String.init).joined(separator: " x ") }
    guard manifest.sizes.isEmpty || manifest.sizes.contains(plan.sizes.picture) else {
        throw HostError.usage(
            "this bundle makes pictures of \(manifest.sizes.map(said).joined(separator: ", ")) pixels (height x width) "
                + "only, this run asks for \(said(plan.sizes.picture)); export it for that size")
    }
    for call in manifest.host.run {
        guard let fixed = manifest.graphs[call.graph]?.inputs[0].shape[0], fixed != plan.batch(call) else { continue }
        throw HostError.usage(
            "\(call.graph) was exported for a batch of \(fixed), this run needs \(plan.batch(call)) (one picture, "
                + "doubled under guidance); change guidance, or export for it")
    }
}
