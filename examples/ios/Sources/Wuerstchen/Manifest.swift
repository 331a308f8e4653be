import Foundation

/// bundle.json, format version 2: what a host needs of it. Names and meanings are the JSON Schema's of the bundle.
public let manifestName = "bundle.json"
public let formatVersion = 2

/// `shape` has nil where any size goes.
public struct TensorSpec {
    public let name: String
    public let dtype: String
    public let shape: [Int?]
}

public struct ExternalData {
    public let file: String
    public let location: String
}

public struct Graph {
    public let file: String
    public let precision: String
    public let compute: String
    public let inputs: [TensorSpec]
    public let outputs: [TensorSpec]
    public let data: [ExternalData]
    public let activations: [Double]
    public let engines: [String: String]
}

public struct Normalization {
    public let kind: String
    public let pattern: String
    public let content: String
}

public struct AddedToken {
    public let content: String
    public let id: Int
    public let singleWord: Bool
    public let lstrip: Bool
    public let rstrip: Bool
    public let normalized: Bool
}

public struct TokenizerSpec {
    public let folder: String
    public let maxLength: Int
    public let bosId: Int
    public let eosId: Int
    public let padId: Int
    public let unknownId: Int
    public let normalization: [Normalization]
    public let words: String
    public let endOfWord: String
    public let added: [AddedToken]
}

/// One sampling step, x' = a*x + b*epsilon + c*noise, at timestep t.
public struct Row {
    public let t: Float
    public let a: Float
    public let b: Float
    public let c: Float
    public let embedding: [Float]
}

public struct Denoiser {
    public let channels: Int
    public let s: Double
    public let scaler: Double
    public let guidance: Double
    public let frequencies: [Float]
    public let padding: Int
    public let timesteps: [Float]
    public let rows: [Row]
}

public struct Sampling {
    public let resolutionMultiple: Double
    public let latentDimScale: Double
    public let latentMean: Float
    public let latentStd: Float
    public let stageBMultiple: Int
    public let stageAScale: Int
    public let height: Int
    public let width: Int
    public let denoisers: [String: Denoiser]
}

public struct FileEntry {
    public let size: Int
    public let sha256: String
}

/// `sizes` are the only pictures (height, width) of graphs of fixed shape; none where any size goes.
public struct Manifest {
    public let backend: String
    public let precision: String
    public let graphs: [String: Graph]
    public let tokenizers: [String: TokenizerSpec]
    public let sampling: Sampling
    public let sizes: [[Int]]
    public let files: [String: FileEntry]
    public let host: Host

    /// HostError naming the first value that is missing or of another kind.
    public init(_ json: Json) throws {
        backend = try json.at("backend").text()
        precision = try json.at("precision").text()
        graphs = try json.at("graphs").entries().mapValues(readGraph)
        tokenizers = try json.at("tokenizers").entries().mapValues(readTokenizer)
        sampling = try readSampling(json.at("sampling"))
        sizes = try json.at("sizes").list().map { try $0.list().map { try $0.whole() } }
        files = try json.at("files").entries().mapValues {
            FileEntry(size: try $0.at("size").whole(), sha256: try $0.at("sha256").text())
        }
        host = try Host(json.at("host"))
    }
}

private func readGraph(_ json: Json) throws -> Graph {
    Graph(
        file: try json.at("file").text(),
        precision: try json.at("precision").text(),
        compute: try json.at("compute").text(),
        inputs: try json.at("inputs").list().map(readTensor),
        outputs: try json.at("outputs").list().map(readTensor),
        data: try json.at("data").list().map {
            ExternalData(file: try $0.at("file").text(), location: try $0.at("location").text())
        },
        activations: try json.at("activations").list().map { try $0.number() },
        engines: try json.at("engines").textsByKey())
}

private func readTensor(_ json: Json) throws -> TensorSpec {
    TensorSpec(
        name: try json.at("name").text(),
        dtype: try json.at("dtype").text(),
        shape: try json.at("shape").list().map { $0.isText ? nil : try $0.whole() })
}

private func readTokenizer(_ json: Json) throws -> TokenizerSpec {
    let rules = try json.at("rules")
    return TokenizerSpec(
        folder: try json.at("folder").text(),
        maxLength: try json.at("max_length").within(2...largest),
        bosId: try json.at("bos_id").whole(),
        eosId: try json.at("eos_id").whole(),
        padId: try json.at("pad_id").whole(),
        unknownId: try rules.at("unknown_id").whole(),
        normalization: try rules.at("normalization").list().map {
            Normalization(
                kind: try $0.at("kind").text(), pattern: try $0.at("pattern").text(), content: try $0.at("content").text())
        },
        words: try rules.at("words").text(),
        endOfWord: try rules.at("end_of_word").text(),
        added: try rules.at("added").list().map(readAdded))
}

private func readAdded(_ json: Json) throws -> AddedToken {
    AddedToken(
        content: try json.at("content").text(),
        id: try json.at("id").whole(),
        singleWord: try json.at("single_word").flag(),
        lstrip: try json.at("lstrip").flag(),
        rstrip: try json.at("rstrip").flag(),
        normalized: try json.at("normalized").flag())
}

private func readSampling(_ json: Json) throws -> Sampling {
    Sampling(
        resolutionMultiple: try json.at("resolution_multiple").numberWithin(1...Double(largest)),
        latentDimScale: try json.at("latent_dim_scale").numberWithin(0...Double(largest)),
        latentMean: try json.at("latent_mean").float(),
        latentStd: try json.at("latent_std").float(),
        stageBMultiple: try json.at("stage_b_multiple").within(1...largest),
        stageAScale: try json.at("stage_a_scale").within(1...largest),
        height: try json.at("height").within(1...largest),
        width: try json.at("width").within(1...largest),
        denoisers: Dictionary(uniqueKeysWithValues: try stageNames.map { ($0, try readDenoiser(json.at($0))) }))
}

private func readDenoiser(_ json: Json) throws -> Denoiser {
    let schedule = try json.at("schedule").list()
    let embeddings = try json.at("embeddings").list().map { try $0.floats() }
    let frequencies = try json.at("timestep_frequencies").floats()
    let padding = try json.at("timestep_padding").within(0...largest)
    let timesteps = try json.at("timesteps").floats()
    guard !schedule.isEmpty, embeddings.count == schedule.count, timesteps.count == schedule.count + 1 else {
        throw HostError.run("\(json.place): timesteps, schedule and embeddings are not of one number of steps")
    }
    guard embeddings.allSatisfy({ $0.count == 2 * frequencies.count + padding }) else {
        throw HostError.run("\(json.place): an embedding has not as many values as frequencies and padding make")
    }
    return Denoiser(
        channels: try json.at("channels").within(1...largest),
        s: try json.at("s").number(),
        scaler: try json.at("scaler").number(),
        guidance: try json.at("guidance").number(),
        frequencies: frequencies,
        padding: padding,
        timesteps: timesteps,
        rows: try zip(schedule, embeddings).map { row, embedding in
            Row(
                t: try row.at("t").float(), a: try row.at("a").float(), b: try row.at("b").float(),
                c: try row.at("c").float(), embedding: embedding)
        })
}
