/// Tables of names in other programs. Keys are names as `SamplerNames.key` writes them: in small letters, "+" as "p",
/// nothing between the words.
extension SamplerNames {
    /// Why a name has no equal here, and the nearest name that has.
    struct NoEqual: Sendable {
        var reason: String
        var nearest: String

        init(_ reason: String, _ nearest: String) {
            self.reason = reason
            self.nearest = nearest
        }
    }

    static let otherSamplers: [String: Meaning] = [
        "eulera": Meaning(sampler: "euler_ancestral"),
        "pndm": Meaning(sampler: "plms"),
        "dpmpp": Meaning(sampler: "dpmpp_2m"),
        "dpmsolverpp": Meaning(sampler: "dpmpp_2m"),
        "sdedpmsolverpp": Meaning(sampler: "dpmpp_2m_sde"),
        "dpmpp2msdegpu": Meaning(sampler: "dpmpp_2m_sde"),
        "dpmpp2msdeheun": Meaning(sampler: "dpmpp_2m_sde", kind: "heun"),
        "dpmpp2msdeheungpu": Meaning(sampler: "dpmpp_2m_sde", kind: "heun"),
        "unipcbh2": Meaning(sampler: "unipc", kind: "bh2"),
        "ddimparallel": Meaning(sampler: "ddim"),
        "ddpmparallel": Meaning(sampler: "ddpm"),
    ]

    static let otherSchedules: [String: String] = [
        "uniform": "normal",
        "discrete": "normal",
        "polyexponential": "exponential",
        "ddimuniform": "leading",
        "ddim": "leading",
        "alignyoursteps": "ays",
        "usekarrassigmas": "diffusers_karras",
        "useexponentialsigmas": "diffusers_exponential",
        "usebetasigmas": "diffusers_beta",
    ]

    /// A1111's words for no choice.
    static let open = ["automatic", "default", "usesamescheduler"]

    /// What A1111 takes for the schedule type "Automatic".
    static let automatic: [String: String] = [
        "dpmpp_2m": "karras",
        "dpmpp_2m_sde": "exponential",
        "ddim": "leading",
        "plms": "leading",
        "euler": "normal",
        "euler_ancestral": "normal",
        "heun": "normal",
        "lms": "normal",
    ]

    private static let twice = "it evaluates the network twice a step"
    private static let ancestral = "it evaluates the network twice a step and adds fresh noise"
    private static let cfgPP = "it is made for the guidance CFG++"
    private static let newer = "this solver is not implemented"

    static let noSampler: [String: NoEqual] = [
        "dpmpp3msde": NoEqual("it is of third order and adds fresh noise", "dpmpp_2m_sde"),
        "dpmppsde": NoEqual(ancestral, "dpmpp_2m_sde"),
        "dpmsolversde": NoEqual(ancestral, "dpmpp_2m_sde"),
        "dpmpp2sancestral": NoEqual(ancestral, "euler_ancestral"),
        "dpmpp2sa": NoEqual(ancestral, "euler_ancestral"),
        "dpm2": NoEqual("\(twice), the second time in the middle", "heun"),
        "kdpm2discrete": NoEqual("\(twice), the second time in the middle", "heun"),
        "dpm2ancestral": NoEqual(ancestral, "euler_ancestral"),
        "dpm2a": NoEqual(ancestral, "euler_ancestral"),
        "kdpm2ancestraldiscrete": NoEqual(ancestral, "euler_ancestral"),
        "dpmfast": NoEqual("its steps are groups of one to three evaluations", "dpmpp_2s"),
        "dpmadaptive": NoEqual("it chooses its steps while it runs", "dpmpp_2m"),
        "dpmad": NoEqual("it chooses its steps while it runs", "dpmpp_2m"),
        "heunpp2": NoEqual("it evaluates the network up to three times a step", "heun"),
        "restart": NoEqual("it goes back to higher noise levels several times", "heun"),
        "ipndm": NoEqual("its weights are of even steps, whatever the schedule", "lms"),
        "ipndmv": NoEqual("its weights differ from those of lms", "lms"),
        "eulercfgpp": NoEqual(cfgPP, "euler"),
        "eulerancestralcfgpp": NoEqual(cfgPP, "euler_ancestral"),
        "dpmpp2mcfgpp": NoEqual(cfgPP, "dpmpp_2m"),
        "dpmpp2sancestralcfgpp": NoEqual(cfgPP, "euler_ancestral"),
        "ddimcfgpp": NoEqual(cfgPP, "ddim"),
        "resmultistep": NoEqual(newer, "dpmpp_2m"),
        "resmultistepcfgpp": NoEqual(cfgPP, "dpmpp_2m"),
        "resmultistepancestral": NoEqual(newer, "euler_ancestral"),
        "resmultistepancestralcfgpp": NoEqual(cfgPP, "euler_ancestral"),
        "gradientestimation": NoEqual(newer, "lms"),
        "gradientestimationcfgpp": NoEqual(cfgPP, "lms"),
        "ersde": NoEqual(newer, "dpmpp_2m_sde"),
        "seeds2": NoEqual(newer, "dpmpp_2m_sde"),
        "seeds3": NoEqual(newer, "dpmpp_2m_sde"),
        "sasolver": NoEqual(newer, "dpmpp_2m_sde"),
        "sasolverpece": NoEqual(newer, "dpmpp_2m_sde"),
        "ddiminverse": NoEqual("it turns pictures into noise", "ddim"),
        "dpmsolvermultistepinverse": NoEqual("it turns pictures into noise", "dpmpp_2m"),
        "flowmatcheulerdiscrete": NoEqual("it is of networks trained on flows, such as Stable Diffusion 3", "euler"),
        "flowmatchheundiscrete": NoEqual("it is of networks trained on flows, such as Stable Diffusion 3", "heun"),
    ]

    static let noSchedule: [String: NoEqual] = [
        "kloptimal": NoEqual("its levels are even in the arctangent of sigma", "ays"),
        "karrasexponential": NoEqual("it blends two schedules", "karras"),
        "linearquadratic": NoEqual("it is of video models", "sgm_uniform"),
        "turbo": NoEqual("it is of SD Turbo alone", "trailing"),
        "alignyourstepsgits": NoEqual("its levels are other ones", "ays"),
        "gits": NoEqual("its levels are other ones", "ays"),
        "alignyoursteps11": NoEqual("its levels are other ones", "ays"),
        "alignyoursteps32": NoEqual("its levels are other ones", "ays"),
        "smoothstep": NoEqual("its timesteps follow a smooth step", "beta"),
        "beta57": NoEqual("it is of another beta distribution", "beta"),
    ]
}
