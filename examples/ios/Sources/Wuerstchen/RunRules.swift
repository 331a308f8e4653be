import Foundation

private let unconditional: Set = ["negative_prompts", "repeat", "zeros", "included", "none"]
private let rows: Set = ["prompts_and_negatives", "guided", "pictures"]
private let times: Set = ["prompt", "step", "picture"]
private let dtypes: Set = ["float32", "int64", "int32"]
private let hostsOwn: [String: Set<String>] = [
    "tokenizer": ["input_ids", "attention_mask"],
    "sampler": ["latents", "timestep_embedding", "image_embedding"],
]

/// HostError unless each graph is fed by graphs before it, or by this host's own tokenizer and sampler.
func checkRun(_ manifest: Manifest) throws {
    guard let last = manifest.host.run.last, !manifest.host.sizes.isEmpty else {
        throw HostError.run("host.run: there is no graph to run, or no size")
    }
    var outputs = hostsOwn
    for call in manifest.host.run {
        guard let graph = manifest.graphs[call.graph] else { throw fault("there is no graph '\(call.graph)'") }
        try checkCall(call, graph)
        for feed in call.feeds { try checkFeed(manifest, call, feed, outputs) }
        if call.runs != "step" { outputs[call.graph] = Set(graph.outputs.map(\.name)) }
    }
    guard last.runs != "step" else { throw fault("it ends in '\(last.graph)', which makes no picture") }
}

private func fault(_ said: String) -> HostError { .run("host.run: \(said)") }

private func checkCall(_ call: Call, _ graph: Graph) throws {
    guard times.contains(call.runs), rows.contains(call.rows) else {
        throw fault("\(call.graph) runs '\(call.runs)' with rows '\(call.rows)', which this host does not know")
    }
    let ofStage = call.runs == "step" || call.rows == "guided" || !call.stage.isEmpty
    guard stageNames.contains(call.stage) || !ofStage else { throw fault("\(call.graph) is of stage '\(call.stage)'") }
    guard !graph.inputs.isEmpty, !graph.outputs.isEmpty else { throw fault("\(call.graph) has no input or no output") }
    if let odd = (graph.inputs + graph.outputs).first(where: { !dtypes.contains($0.dtype) || $0.shape.isEmpty }) {
        throw fault("\(call.graph) has '\(odd.name)' of \(odd.dtype), this host knows \(dtypes.sorted().joined(separator: ", "))")
    }
    let fed = Set(call.feeds.map(\.input))
    if let hungry = graph.inputs.first(where: { !fed.contains($0.name) }) {
        throw fault("\(call.graph) needs '\(hungry.name)', which nothing feeds")
    }
    guard call.runs != "step" || graph.outputs.contains(where: { $0.name == "epsilon" }) else {
        throw fault("\(call.graph) gives no 'epsilon'")
    }
}

private func checkFeed(_ manifest: Manifest, _ call: Call, _ feed: Feed, _ outputs: [String: Set<String>]) throws {
    guard outputs[feed.source]?.contains(feed.output) == true else {
        throw fault("\(call.graph) reads '\(feed.source).\(feed.output)', which is not there before it runs")
    }
    guard unconditional.contains(feed.unconditional) else {
        throw fault("\(call.graph) is fed '\(feed.unconditional)', which this host does not know")
    }
    guard feed.source != "tokenizer" || manifest.tokenizers[call.graph] != nil else {
        throw fault("\(call.graph) has no tokenizer")
    }
    guard feed.source != "sampler" || !call.stage.isEmpty else { throw fault("\(call.graph) reads latents of no stage") }
    guard feed.output != "timestep_embedding" || call.runs == "step" else {
        throw fault("\(call.graph) reads a timestep outside of steps")
    }
}
