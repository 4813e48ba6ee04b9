extension GenerationPlan {
    /// Returns the control networks of a request; throws for one that the set does not have, or an image that is missing.
    static func controls(
        _ request: GenerationRequest, _ images: [RGBImage], _ info: ModelSetInfo, _ runner: NetworkRunner,
        _ size: (width: Int, height: Int)
    ) throws -> [ControlNetworks.Network] {
        guard images.count == request.controls.count else {
            throw DiffusionError(
                .request,
                "there are \(images.count) control images for \(request.controls.count) control networks; "
                    + "give one for each")
        }
        if request.controls.isEmpty, request.guessMode == true {
            throw DiffusionError(.request, "guess mode is of control networks; give one too")
        }
        return try zip(request.controls, images).map { entry, image in
            let names = info.controls.keys.sorted().filter { name in
                let control = info.controls[name]
                let isNamed = entry.model == name || entry.model == control?.model
                return isNamed && (entry.mode == nil || entry.mode == control?.mode)
            }
            guard let name = names.first, names.count == 1, let control = info.controls[name] else {
                let available = info.controls.keys.sorted().joined(separator: ", ")
                throw DiffusionError(
                    .request,
                    available.isEmpty
                        ? "the set holds no control network; export it with --control, or leave controls out"
                        : "the set holds no control network \(entry.model); it has \(available)")
            }
            guard runner.has(ControlNetworks.mainRole(name)) else {
                throw DiffusionError(.files, "the set has no control:\(name) at \(runner.size); export it")
            }
            try checkShape(image, size, name)
            let fitted = image.resized(width: size.width, height: size.height)
            return ControlNetworks.Network(
                name: name, image: fitted.tensor { Float($0) / 255 }, scale: Float(entry.scale),
                span: entry.start...entry.end, pools: control.pools, features: nil)
        }
    }

    private static func checkShape(_ image: RGBImage, _ size: (width: Int, height: Int), _ name: String) throws {
        let near = 16.0  // pixels by which a side may miss the picture's shape
        let high = abs(Double(size.width * image.height) / Double(image.width) - Double(size.height))
        let wide = abs(Double(size.height * image.width) / Double(image.height) - Double(size.width))
        guard min(high, wide) <= near else {
            throw DiffusionError(
                .request,
                "the image for \(name) is \(image.width) x \(image.height), which is not the shape of a "
                    + "picture of \(size.width) x \(size.height); crop it")
        }
    }

    /// Throws for settings of the Python side that exported networks, or this package, do not know.
    static func checkSupport(_ request: GenerationRequest, _ info: ModelSetInfo) throws {
        guard !info.networks.textEncoders.isEmpty else {
            throw DiffusionError(.files, "the set has no text encoder; export a checkpoint that takes prompts")
        }
        if (request.maskBlur ?? 0) > 0 {
            throw DiffusionError(.request, "this package paints masks with hard edges; leave mask_blur out")
        }
        if request.tgate != nil {
            throw DiffusionError(.request, "exported networks attend as they were exported; leave tgate out")
        }
        if info.networks.textEncoders.count < 2, request.prompt2 != nil || request.negative2 != nil {
            throw DiffusionError(.request, "prompt_2 and negative_2 are for SDXL; leave them out with this model")
        }
    }
}
