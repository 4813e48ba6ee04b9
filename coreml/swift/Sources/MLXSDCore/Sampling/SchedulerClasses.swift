/// The scheduler classes of diffusers: which sampler each means, and which values of its fields are supported.
enum SchedulerClasses {
    /// What one value of algorithm_type means: a sampler, and the values of solver_order, the default first.
    struct Algorithm {
        var type: String?
        var sampler: String
        var orders: [Int]
    }

    /// A config field that changes nothing here: its value when it is absent, and the values that are accepted.
    struct Field {
        var fallback: JSONValue
        var accepted: [JSONValue]

        init(_ fallback: JSONValue, _ accepted: [JSONValue]? = nil) {
            self.fallback = fallback
            self.accepted = accepted ?? [fallback]
        }
    }

    /// A class: its sampler, or one for each algorithm_type, and its fields beside those of every class.
    struct Meaning {
        var sampler: String?
        var algorithms: [Algorithm] = []
        var solverTypes: [String] = []
        var fields: [String: Field] = [:]
    }

    /// Classes that clip estimates unless clip_sample is false.
    static let clipping = ["DDIMScheduler", "DDPMScheduler"]

    private static var dpmTypes: [String] { ["midpoint", "heun"] }
    private static var unipcTypes: [String] { ["bh2", "bh1"] }
    // Another class's solver_type means the class's own default, as in diffusers.
    private static var solverTypes: [String] { dpmTypes + unipcTypes + ["logrho"] }
    private static var everyClass: [String: Field] {
        [
            "clip_sample": Field(.bool(false)), "thresholding": Field(.bool(false)),
            "use_flow_sigmas": Field(.bool(false)), "use_dynamic_shifting": Field(.bool(false)),
        ]
    }
    private static var clipped: [String: Field] {
        [
            "clip_sample": Field(.bool(true), [.bool(true), .bool(false)]),
            "thresholding": Field(.bool(false), [.bool(false), .bool(true)]),
        ]
    }
    private static var sigmaRange: [String: Field] { ["sigma_min": Field(.null), "sigma_max": Field(.null)] }
    private static var dpmFields: [String: Field] {
        [
            "lambda_min_clipped": Field(.null, [.null, .number(-.infinity)]), "variance_type": Field(.null),
            "use_lu_lambdas": Field(.bool(false)),
        ]
    }
    private static var variance: Field {
        Field(.string("fixed_small"), ["fixed_small", "fixed_small_log", "fixed_large"].map(JSONValue.string))
    }
    private static var eulerFields: [String: Field] {
        ["interpolation_type": Field(.string("linear")), "timestep_type": Field(.string("discrete"))]
    }
    private static var unipcFields: [String: Field] {
        [
            "predict_x0": Field(.bool(true)), "disable_corrector": Field(.array([])), "solver_p": Field(.null),
            "shift_terminal": Field(.null),
        ]
    }
    // Read only together with a field that is refused above, or read by `Scheduler`.
    private static var withoutEffect: [String] {
        [
            "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value", "flow_shift", "tensor_format",
            "timestep_values", "time_shift_type",
        ]
    }

    private static func algorithm(_ type: String?, _ sampler: String, _ orders: [Int] = [2, 1, 3]) -> Algorithm {
        Algorithm(type: type, sampler: sampler, orders: orders)
    }

    /// The classes that have an equal here, by their names without "Scheduler".
    static let meanings: [String: Meaning] = [
        "DDIM": Meaning(sampler: "ddim", fields: clipped),
        "DDPM": Meaning(sampler: "ddpm", fields: clipped.merging(["variance_type": variance]) { $1 }),
        "PNDM": Meaning(sampler: "plms"),
        "LMSDiscrete": Meaning(sampler: "lms"),
        "EulerDiscrete": Meaning(sampler: "euler", fields: sigmaRange.merging(eulerFields) { $1 }),
        "EulerAncestralDiscrete": Meaning(sampler: "euler_ancestral"),
        "HeunDiscrete": Meaning(sampler: "heun"),
        "DPMSolverMultistep": Meaning(
            algorithms: [
                algorithm("dpmsolver++", "dpmpp_2m"), algorithm("sde-dpmsolver++", "dpmpp_2m_sde", [2, 1]),
                algorithm("dpmsolver", "dpm_2m"), algorithm("deis", "dpmpp_2m"),
            ], solverTypes: dpmTypes, fields: dpmFields),
        "DPMSolverSinglestep": Meaning(
            algorithms: [algorithm("dpmsolver++", "dpmpp_2s")], solverTypes: dpmTypes, fields: dpmFields),
        "DEISMultistep": Meaning(
            algorithms: ["deis", "dpmsolver", "dpmsolver++"].map { algorithm($0, "deis") },
            fields: ["variance_type": Field(.null)]),
        "UniPCMultistep": Meaning(
            algorithms: [algorithm(nil, "unipc"), algorithm("dpmsolver++", "unipc")], solverTypes: unipcTypes,
            fields: sigmaRange.merging(unipcFields) { $1 }),
        "LCM": Meaning(sampler: "lcm"),
        "TCD": Meaning(sampler: "tcd"),
        "EDMEuler": Meaning(sampler: "euler"),
        "EDMDPMSolverMultistep": Meaning(
            algorithms: [
                algorithm("dpmsolver++", "dpmpp_2m"), algorithm("sde-dpmsolver++", "dpmpp_2m_sde", [2, 1]),
            ], solverTypes: dpmTypes),
    ]

    /// Returns the sampler, with its options, that a config's class and fields mean; takes those fields.
    static func sampler(_ config: inout ConfigFields, className: String) throws -> (String, SolverOptions) {
        let name = className.hasSuffix("Scheduler") ? String(className.dropLast("Scheduler".count)) : ""
        guard let meaning = meanings[name] else {
            throw DiffusionError(.files, "\(config.source): \(className) is not among the samplers here")
        }
        var options = SolverOptions()
        if className.hasPrefix("EDM") { options.rho = config.take("rho").number }
        var sampler = meaning.sampler ?? ""
        if meaning.sampler == nil {
            let type = try config.only("algorithm_type", meaning.algorithms.map(\.type))
            let algorithm = meaning.algorithms.first { $0.type == type } ?? meaning.algorithms[0]
            sampler = algorithm.sampler
            let order = try config.integer("solver_order", algorithm.orders[0])
            guard algorithm.orders.contains(order) else {
                throw config.unsupported("solver_order", .integer(order), algorithm.orders.map(String.init))
            }
            options.order = order
            let solverType = try config.only("solver_type", meaning.solverTypes + solverTypes)
            options.kind = meaning.solverTypes.first { $0 == solverType }
            if sampler == "dpmpp_2m", order == 3 { (sampler, options.order) = ("dpmpp_3m", nil) }
        }
        let fields = everyClass.merging(meaning.fields) { $1 }
        for (name, field) in fields.sorted(by: { $0.key < $1.key }) {
            let value = config.unread[name] ?? field.fallback
            _ = config.take(name)
            guard field.accepted.contains(value) else {
                throw config.unsupported(name, value, field.accepted.map(\.shown))
            }
        }
        config.ignore(withoutEffect)
        try config.done()
        return (sampler, options)
    }
}
