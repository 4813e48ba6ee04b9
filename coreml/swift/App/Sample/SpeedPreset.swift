#if canImport(SwiftUI)
    import MLXSDKit

    /// How many evaluations a picture gets, and how many of them run the whole UNet.
    enum SpeedPreset: String, CaseIterable, Identifiable {
        case exact = "Exact"
        case fast = "Fast"
        case fastest = "Fastest"

        var id: String { rawValue }

        /// Returns the settings of a picture; the cut of the UNet is the model set's.
        func request(prompt: String, negative: String, seed: Int, info: ModelSetInfo) throws -> GenerationRequest {
            var request = GenerationRequest()
            request.prompt = prompt
            request.negative = negative.isEmpty ? nil : negative
            request.seed = seed
            switch self {
            case .exact: request.steps = 25
            case .fast: request.steps = 20
            case .fastest: request.steps = 12
            }
            if self != .exact {
                request.sampler = "dpmpp_2m"
                request.schedule = "karras"
                let isCut = info.roles.values.contains { $0["unet_shallow"] != nil }
                if isCut { request.deepcache = try CachePolicy(parsing: "3:\(info.deepcache.branch)") }
            }
            return request
        }
    }
#endif
