import Foundation

// Timesteps, the steps between them and their embeddings, for numbers of steps that the manifest does not
// tabulate. In fp32 at every operation: a timestep that differs in its last bit moves the embedding's
// angles, up to 10000, by 6e-4.

/// The steps of a denoiser: the manifest's own, or `steps` even ones.
func rowsFor(_ denoiser: Denoiser, _ rules: ScheduleRules, _ steps: Int?) -> [Row] {
    guard let steps else { return denoiser.rows }
    return computedRows(denoiser, rules, evenTimesteps(steps))
}

/// Rows of any timesteps, from the manifest's constants.
func computedRows(_ denoiser: Denoiser, _ rules: ScheduleRules, _ timesteps: [Float]) -> [Row] {
    let share = timesteps.map { alphaCumprod($0, denoiser, rules) }
    return (0..<timesteps.count - 1).map { i in
        step(timesteps[i], share[i], share[i + 1], timesteps[i + 1] == 0, embedding(timesteps[i], denoiser, rules))
    }
}

/// `steps` even steps from 1 to 0, bit-equal to torch.linspace(1, 0, steps + 1).
func evenTimesteps(_ steps: Int) -> [Float] {
    let step = Double(Float(-1) / Float(steps))
    // PyTorch computes the first half from the start and the second from the end, with one rounding.
    func rising(_ i: Int) -> Float { Float(1 + step * Double(i)) }
    func falling(_ i: Int) -> Float { Float(0 - step * Double(steps - i)) }
    return (0...steps).map { i -> Float in i < (steps + 1) / 2 ? rising(i) : falling(i) }
}

/// The cosine schedule's share of signal at t, clamped.
private func alphaCumprod(_ t: Float, _ denoiser: Denoiser, _ rules: ScheduleRules) -> Float {
    // To the nearest: Swift's own Float.pi is rounded towards zero.
    let halfPi = Float(Double.pi) * 0.5
    let offset = Float(denoiser.s)
    func squaredCosine(_ at: Float) -> Float {
        let cosine = Float(cos(Double((at + offset) / (1 + offset) * halfPi)))
        return cosine * cosine
    }
    let share = squaredCosine(bent(t, denoiser.scaler)) / squaredCosine(0)
    return min(max(share, rules.alpha.lowerBound), rules.alpha.upperBound)
}

private func bent(_ t: Float, _ scaler: Double) -> Float {
    func raised(_ value: Float) -> Float { Float(pow(Double(value), Double(Float(scaler)))) }
    return scaler > 1 ? 1 - raised(1 - t) : scaler < 1 ? raised(t) : t
}

/// x' = a * x + b * epsilon + c * noise, from one share of signal to the next.
private func step(_ t: Float, _ now: Float, _ then: Float, _ last: Bool, _ embedding: [Float]) -> Row {
    let alpha = now / then
    let a = (1 / alpha).squareRoot()
    let b = -a * (1 - alpha) / (1 - now).squareRoot()
    let variance = (1 - alpha) * (1 - then) / (1 - now)
    return Row(t: t, a: a, b: b, c: last ? 0 : variance.squareRoot(), embedding: embedding)
}

/// Sines, cosines, padding.
private func embedding(_ t: Float, _ denoiser: Denoiser, _ rules: ScheduleRules) -> [Float] {
    let scaled = t * rules.timestepScale
    let angles = denoiser.frequencies.map { Double(scaled * $0) }
    return angles.map { Float(sin($0)) } + angles.map { Float(cos($0)) } + [Float](repeating: 0, count: denoiser.padding)
}
