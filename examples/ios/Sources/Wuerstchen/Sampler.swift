import Foundation

// The arithmetic between graphs, in fp32, one operation after the other.

/// The latents after a step: a * x + b * epsilon + c * noise. Latents and noise are (1,C,H,W), epsilon as the
/// graph gives it: both halves where `guidance`, its scale, is not nil.
func advance(_ row: Row, _ latents: Tensor, _ epsilon: Tensor, _ noise: Tensor, _ guidance: Float?) throws -> Tensor {
    let guided = guidance.map { guide(epsilon.floats, $0) } ?? epsilon.floats
    let (x, drawn) = (latents.floats, noise.floats)
    guard guided.count == x.count else {
        throw HostError.run("epsilon has \(guided.count) values, the latents \(x.count)")
    }
    var next = [Float](repeating: 0, count: x.count)
    for i in x.indices { next[i] = row.a * x[i] + row.b * guided[i] + row.c * drawn[i] }
    return Tensor(latents.dims, next)
}

/// Classifier-free guidance: the conditional half comes first.
private func guide(_ epsilon: [Float], _ scale: Float) -> [Float] {
    let half = epsilon.count / 2
    return zip(epsilon.prefix(half), epsilon.suffix(half)).map { conditional, unconditional -> Float in
        unconditional + scale * (conditional - unconditional)
    }
}

/// What Stage B is told of Stage C's latents.
func imageEmbedding(_ latents: Tensor, _ sampling: Sampling) -> Tensor {
    Tensor(latents.dims, latents.floats.map { $0 * sampling.latentMean - sampling.latentStd })
}
