import Foundation

extension SamplerTable {
    /// Runs the table and returns the final latents.
    ///
    /// - Parameters:
    ///   - noise: unit noise of the latents' size, the first draw of a generator.
    ///   - image: scaled latents of the image that a table with `start.image` begins from.
    ///   - freshNoise: the next draw of the same size; asked for only where a row adds noise.
    ///   - predict: the network with guidance and reuse; evaluations count from 0, their plan is `plan[evaluation]`.
    ///   - keep: may change the latents after each row, which are of the level (signal, noise): blended inpainting.
    ///   - after: is told each evaluation and its estimate of the clean image.
    ///
    /// Throws `CancellationError` before an evaluation once the task is cancelled, `DiffusionError(.network)` as soon
    /// as latents are not finite, and `DiffusionError(.request)` where noise and image do not fit the table.
    public func run(
        isolation: isolated (any Actor)? = #isolation,
        noise: [Float],
        image: [Float]? = nil,
        freshNoise: () throws -> [Float],
        predict: (_ latents: [Float], _ evaluation: Int) async throws -> [Float],
        keep: ((_ latents: [Float], _ signal: Double, _ noise: Double) -> [Float])? = nil,
        after: (_ evaluation: Int, _ denoised: [Float]) async throws -> Void = { _, _ in }
    ) async throws -> [Float] {
        let levels = levels
        if keep != nil, levels == nil {
            throw DiffusionError(
                .files, "this sampler table holds no noise levels for inpainting; make it from the set's scheduler")
        }
        let count = noise.count
        var latents = try firstLatents(noise, image, freshNoise)
        var base = latents
        var history: [[Float]] = []
        for (evaluation, row) in rows.enumerated() {
            try Task.checkCancellation()
            let prediction = try await predict(latents, evaluation)
            guard prediction.count == count else {
                throw DiffusionError(
                    .network,
                    "a prediction has \(prediction.count) numbers for latents of \(count); export the set again")
            }
            let denoised = Self.estimated(row.denoised ?? row.estimate, latents, prediction)
            var estimate =
                row.denoised == row.estimate || row.denoised == nil
                ? denoised : Self.estimated(row.estimate, latents, prediction)
            var image = denoised
            if let clip {
                image = clip.applied(denoised)
                if row.denoised == row.estimate { estimate = image }
            }
            history.insert(estimate, at: 0)
            if history.count > self.history { history.removeLast() }
            if let correction = row.correction { base = Self.combined(correction, base, history) }
            latents = Self.combined(row.mix, base, history)
            if clip != nil, row.clipWeight != 0 {
                var cut = denoised
                Self.add(-1, image, to: &cut)
                Self.add(row.clipWeight, cut, to: &latents)
            }
            if row.freshNoise != 0 { try add(row.freshNoise, of: freshNoise, to: &latents) }
            if let keep, let levels {
                latents = keep(latents, levels[evaluation].signal, levels[evaluation].noise)
            }
            if row.endsStep { base = latents }
            guard Self.areFinite(latents) else {
                throw DiffusionError(
                    .network,
                    "the latents are not finite after evaluation \(evaluation + 1) of \(rows.count): the weights hold "
                        + "NaN, or float16 overflowed; try other compute units, or export in float32")
            }
            try await after(evaluation, image)
        }
        return latents
    }

    private func firstLatents(_ noise: [Float], _ image: [Float]?, _ freshNoise: () throws -> [Float]) throws
        -> [Float]
    {
        guard (start.image == nil) == (image == nil) else {
            throw DiffusionError(
                .request, "a table that begins midway needs the image that it starts from; other tables take no image")
        }
        var latents = Self.combined(Mix(base: start.noise, estimates: []), noise, [])
        if let weight = start.image, let image {
            guard image.count == noise.count else {
                throw DiffusionError(.request, "the image has \(image.count) latents, the noise \(noise.count)")
            }
            Self.add(weight, image, to: &latents)
        }
        if start.freshNoise != 0 { try add(start.freshNoise, of: freshNoise, to: &latents) }
        return latents
    }

    private func add(_ weight: Double, of freshNoise: () throws -> [Float], to latents: inout [Float]) throws {
        let noise = try freshNoise()
        guard noise.count == latents.count else {
            throw DiffusionError(.request, "fresh noise has \(noise.count) numbers for latents of \(latents.count)")
        }
        Self.add(weight, noise, to: &latents)
    }

    // Weights are rounded to Float once, as Python's arrays do; plain loops over buffers are the fastest on Linux.

    /// Returns mix.base * base + the sum of mix.estimates[j] * history[j]; surplus weights meet nothing.
    static func combined(_ mix: Mix, _ base: [Float], _ history: [[Float]]) -> [Float] {
        let weight = Float(mix.base)
        var sum = [Float](unsafeUninitializedCapacity: base.count) { buffer, count in
            base.withUnsafeBufferPointer { base in
                for i in base.indices { buffer.initializeElement(at: i, to: weight * base[i]) }
            }
            count = base.count
        }
        for (weight, estimate) in zip(mix.estimates, history) where weight != 0 { add(weight, estimate, to: &sum) }
        return sum
    }

    /// Adds weight * numbers to a sum of the same length.
    static func add(_ weight: Double, _ numbers: [Float], to sum: inout [Float]) {
        let weight = Float(weight)
        sum.withUnsafeMutableBufferPointer { sum in
            numbers.withUnsafeBufferPointer { numbers in
                for i in sum.indices { sum[i] += weight * numbers[i] }
            }
        }
    }

    /// Returns the estimate that latents and prediction imply.
    static func estimated(_ weights: Estimate, _ latents: [Float], _ prediction: [Float]) -> [Float] {
        if weights == Estimate(latents: 0, prediction: 1) { return prediction }
        var estimate = combined(Mix(base: weights.latents, estimates: [weights.prediction]), latents, [prediction])
        if weights.divisor != 1 {
            let divisor = Float(weights.divisor)
            estimate.withUnsafeMutableBufferPointer { for i in $0.indices { $0[i] /= divisor } }
        }
        return estimate
    }

    /// Returns whether no number is NaN or infinite.
    static func areFinite(_ numbers: [Float]) -> Bool {
        var largest: UInt32 = 0  // of the bit patterns without sign: integers, so that the loop is vectorised
        numbers.withUnsafeBufferPointer { numbers in
            for number in numbers { largest = max(largest, number.bitPattern & 0x7fff_ffff) }
        }
        return largest < Float.infinity.bitPattern
    }
}

extension SamplerTable.Clip {
    /// Returns the estimate of one picture limited to the images' range.
    func applied(_ image: [Float]) -> [Float] {
        guard let quantile else {
            let limit = Float(limit)
            return image.map { min(max($0, -limit), limit) }
        }
        let values = image.map(abs).sorted()
        let index = quantile * Double(values.count - 1)  // between two of the sorted values
        let low = Int(index)
        let high = min(low + 1, values.count - 1)
        let value = values[low] + Float(index - Double(low)) * (values[high] - values[low])
        let bound = min(max(value, 1), Float(limit))
        return image.map { min(max($0, -bound), bound) / bound }
    }
}
