/// What a solver makes of steps: rows, before the prediction type and the start of a run are in them.
struct TableDraft {
    /// One evaluation; the fields are those of `SamplerTable.Row`.
    struct Row {
        var timestep: Double
        var level: NoiseLevel
        var mix: SamplerTable.Mix
        var freshNoise = 0.0
        var endsStep = true
        var correction: SamplerTable.Mix?
        var clipWeight = 0.0

        init(
            timestep: Double, level: NoiseLevel, mix: SamplerTable.Mix, freshNoise: Double = 0, endsStep: Bool = true
        ) {
            (self.timestep, self.level, self.mix) = (timestep, level, mix)
            (self.freshNoise, self.endsStep) = (freshNoise, endsStep)
        }

        init(
            _ step: SamplingStep, _ base: Double, _ estimates: [Double], freshNoise: Double = 0, endsStep: Bool = true
        ) {
            self.init(
                timestep: step.timestep, level: step.start, mix: SamplerTable.Mix(base: base, estimates: estimates),
                freshNoise: freshNoise, endsStep: endsStep)
        }
    }

    var rows: [Row]
    var history = EstimateKind.denoised
    var noiseScale = 1.0
    var churnScale = 0.0
    var clip: SamplerTable.Clip?
}

extension PredictionType {
    /// Returns the weights of latents and prediction in an estimate of some kind at a level.
    func estimate(_ kind: EstimateKind, _ level: NoiseLevel) -> SamplerTable.Estimate {
        let (signal, noise) = (level.signal, level.noise)
        switch (kind, self) {
        case (.prediction, _), (.denoised, .sample), (.noise, .epsilon): return .init(latents: 0, prediction: 1)
        case (.denoised, .epsilon): return .init(latents: 1, prediction: -noise, divisor: signal)
        case (.denoised, .velocity): return .init(latents: signal, prediction: -noise)
        case (.denoised, .edm): return .init(latents: signal, prediction: noise)
        case (.noise, .velocity): return .init(latents: noise, prediction: signal)
        case (.noise, .edm): return .init(latents: noise, prediction: -signal)
        case (.noise, .sample): return .init(latents: 1, prediction: -signal, divisor: noise)
        }
    }
}
