import Foundation

/// The samplers: a solver, the grid of steps it is defined on, its schedules and its options.
public enum Samplers {
    typealias Solver = @Sendable (SamplingSteps, Scheduler, SolverOptions) throws -> TableDraft
    typealias Grid = @Sendable (_ scheduler: Scheduler, _ steps: Int, _ schedule: String, _ rho: Double) throws
        -> SamplingGrid

    /// Whether UniC corrects a sampler's steps.
    enum Corrector { case never, onRequest, byDefault }

    /// A line of the table of samplers.
    struct Sampler: Sendable {
        var name: String
        var solver: Solver
        var grid: Grid
        var schedules: [String]
        /// If neither the user nor the checkpoint names one.
        var defaultSchedule = "linspace"
        /// The highest of the orders 1, 2, ... that it takes; 0 where it takes none.
        var orders = 0
        /// The kinds that it takes.
        var kinds: [String] = []
        /// The other options that it takes, with their highest values.
        var numbers: [String: Double] = [:]
        var corrector = Corrector.never
    }

    // All schedules, for solvers in sigma or lambda; and those that list timesteps, for solvers that look levels up by
    // whole timesteps, which the shaped schedules do not have.
    private static let anySchedule = Schedules.names + Schedules.lists
    private static let indexed = (Schedules.names + ["timesteps"]).filter { Schedules.shape($0) == nil }
    private static let even = ["sgm_uniform", "leading", "linspace", "trailing", "diffusers_sgm_uniform"]
    private static let distilled = ["sgm_uniform", "trailing", "timesteps", "diffusers_sgm_uniform"]
    // For checkpoints trained on sigmas, where diffusers' names mean the same as ours.
    private static let edmSchedules = [
        "karras", "exponential", "ays", "sigmas", "diffusers_karras", "diffusers_exponential",
    ]
    private static let kinds = ["midpoint", "heun"]
    private static let churn = ["s_churn", "s_tmin", "s_tmax", "s_noise"]

    private static let kDiffusion: Grid = { try Grids.kDiffusion($0, $1, $2, rho: $3) }
    private static let toZero: Grid = { try Grids.kDiffusion($0, $1, $2, rho: $3, toZero: true) }
    private static let dpmSolver: Grid = { try Grids.dpmSolver($0, $1, $2, rho: $3) }
    private static let notToZero: Grid = { try Grids.dpmSolver($0, $1, $2, rho: $3, neverToZero: true) }
    private static let ddimGrid: Grid = { scheduler, steps, schedule, _ in
        try Grids.ddim(scheduler, steps, schedule, alphaToOne: true)
    }
    private static let ddimToFirst: Grid = { scheduler, steps, schedule, _ in
        try Grids.ddim(scheduler, steps, schedule, alphaToOne: false)
    }
    private static let ddpmGrid: Grid = { scheduler, steps, schedule, _ in
        try Grids.ddpm(scheduler, steps, schedule)
    }
    private static let distilledGrid: Grid = { scheduler, steps, schedule, _ in
        try Grids.distilled(scheduler, steps, schedule, alphaToOne: true)
    }
    private static let distilledToFirst: Grid = { scheduler, steps, schedule, _ in
        try Grids.distilled(scheduler, steps, schedule, alphaToOne: false)
    }

    static let all: [Sampler] = [
        Sampler(
            name: "euler", solver: OneStepSolvers.euler, grid: kDiffusion, schedules: anySchedule,
            corrector: .onRequest),
        Sampler(
            name: "euler_ancestral", solver: OneStepSolvers.eulerAncestral, grid: toZero, schedules: anySchedule,
            numbers: ["eta": 1]),
        Sampler(name: "heun", solver: OneStepSolvers.heun, grid: toZero, schedules: anySchedule),
        Sampler(
            name: "lms", solver: MultistepSolvers.lms, grid: toZero, schedules: anySchedule, orders: 4,
            corrector: .onRequest),
        Sampler(
            name: "ddim", solver: OneStepSolvers.ddim, grid: ddimGrid, schedules: indexed, defaultSchedule: "leading",
            numbers: ["eta": 1], corrector: .onRequest),
        Sampler(
            name: "ddpm", solver: OneStepSolvers.ddpm, grid: ddpmGrid, schedules: indexed, defaultSchedule: "leading"),
        Sampler(
            name: "plms", solver: PLMSSolver.plms, grid: ddimToFirst, schedules: even, defaultSchedule: "leading"),
        Sampler(
            name: "dpmpp_2m", solver: MultistepSolvers.dpmpp2M, grid: dpmSolver, schedules: anySchedule, orders: 2,
            kinds: kinds, corrector: .onRequest),
        Sampler(
            name: "dpmpp_2m_sde", solver: MultistepSolvers.dpmpp2MSDE, grid: dpmSolver, schedules: anySchedule,
            orders: 2, kinds: kinds),
        Sampler(
            name: "dpmpp_3m", solver: MultistepSolvers.dpmpp3M, grid: dpmSolver, schedules: anySchedule, kinds: kinds,
            corrector: .onRequest),
        Sampler(
            name: "dpmpp_2s", solver: OneStepSolvers.dpmpp2S, grid: dpmSolver, schedules: anySchedule, orders: 3,
            kinds: kinds),
        Sampler(
            name: "dpm_2m", solver: MultistepSolvers.dpm2M, grid: notToZero, schedules: anySchedule, orders: 3,
            kinds: kinds, corrector: .onRequest),
        Sampler(
            name: "deis", solver: MultistepSolvers.deis, grid: notToZero, schedules: anySchedule, orders: 3,
            corrector: .onRequest),
        Sampler(
            name: "unipc", solver: MultistepSolvers.unipc, grid: dpmSolver, schedules: anySchedule, orders: 3,
            kinds: ["bh2", "bh1"], corrector: .byDefault),
        Sampler(
            name: "edm", solver: OneStepSolvers.edm, grid: toZero, schedules: anySchedule, defaultSchedule: "karras",
            orders: 2, numbers: Dictionary(uniqueKeysWithValues: churn.map { ($0, .infinity) })),
        Sampler(
            name: "lcm", solver: OneStepSolvers.lcm, grid: distilledGrid, schedules: distilled,
            defaultSchedule: "trailing"),
        Sampler(
            name: "tcd", solver: OneStepSolvers.tcd, grid: distilledToFirst, schedules: distilled,
            defaultSchedule: "trailing", numbers: ["gamma": 1]),
    ]

    /// The names of all samplers.
    public static let names = all.map(\.name)

    /// Returns a sampler by our name; throws `DiffusionError(.request)` where there is none.
    static func named(_ name: String) throws -> Sampler {
        guard let sampler = all.first(where: { $0.name == name }) else {
            throw Suggestions.unknown("sampler", name, names)
        }
        return sampler
    }

    /// A sampler, a resolved schedule and the options of a run.
    public struct Choice: Sendable, Equatable {
        public var sampler: String
        public var schedule: String
        public var options: SolverOptions
    }

    /// Returns the sampler, schedule and options of a run: the user's, completed from the checkpoint's.
    ///
    /// Names are ours (`SamplerNames.canonical` reads others). Throws `DiffusionError(.request)` for an unknown name,
    /// a schedule that the sampler does not take, an option out of range, or a checkpoint whose sampler is not here.
    public static func choose(
        _ scheduler: Scheduler, sampler: String? = nil, schedule: String? = nil, options: SolverOptions = .init()
    ) throws -> Choice {
        guard let name = sampler ?? scheduler.sampler else {
            throw DiffusionError(
                .request, "\(scheduler.problem ?? ""); choose a sampler: \(names.joined(separator: ", "))")
        }
        let method = try named(name)
        var possible = method.schedules
        if scheduler.edm != nil {
            possible = edmSchedules.filter(possible.contains)
            guard possible.contains("sigmas") else {
                throw DiffusionError(
                    .request, "\(name) needs timesteps, which this checkpoint does not know; use euler or dpmpp_2m")
            }
        }
        let shaped = scheduler.sigmaSchedule.map { scheduler.edm == nil ? "diffusers_\($0)" : $0 }
        let defaults = [shaped, scheduler.timestepSpacing, method.defaultSchedule].compactMap { $0 }
        let chosen = schedule ?? (defaults + possible).first(where: possible.contains) ?? method.defaultSchedule
        let resolved = try Schedules.resolved(chosen, scheduler)
        let kind = Schedules.kind(resolved)
        guard possible.contains(kind) else {
            throw DiffusionError(
                .request, "\(name) does not go with \(kind); it takes \(possible.joined(separator: ", "))")
        }
        try check(options, method, schedule: kind)
        var ofCheckpoint = name == scheduler.sampler ? scheduler.options : SolverOptions()
        if Schedules.shape(kind) != "karras" { ofCheckpoint.rho = nil }
        return Choice(sampler: name, schedule: resolved, options: options.completed(by: ofCheckpoint))
    }

    /// Throws for an option that the sampler does not take, or not with this value.
    private static func check(_ options: SolverOptions, _ method: Sampler, schedule: String) throws {
        func refusal(_ text: String) -> DiffusionError { DiffusionError(.request, text) }
        for (option, value) in options.numbers {
            switch option {
            case "rho":
                guard Schedules.shape(schedule) == "karras" else {
                    throw refusal("rho is of the karras schedule, not of \(schedule)")
                }
                guard value > 0, value < .infinity else { throw refusal("rho must be above 0, not \(value)") }
            case "order":
                guard method.orders > 0 else { throw refusal("\(method.name) takes no order") }
                guard 1...method.orders ~= Int(value) else {
                    throw refusal("order of \(method.name) must be from 1 to \(method.orders), not \(Int(value))")
                }
            default:
                guard let highest = method.numbers[option] else {
                    let able = all.filter { $0.numbers[option] != nil }.map(\.name).joined(separator: ", ")
                    throw refusal("\(method.name) takes no \(option); it is of \(able)")
                }
                guard value >= 0, value <= highest else {
                    let range = highest == .infinity ? "0 or more" : "from 0 to \(highest)"
                    throw refusal("\(option) must be \(range), not \(value)")
                }
            }
        }
        if let kind = options.kind {
            guard !method.kinds.isEmpty else { throw refusal("\(method.name) takes no kind") }
            guard method.kinds.contains(kind) else {
                throw refusal("kind of \(method.name) must be \(method.kinds.joined(separator: " or ")), not \(kind)")
            }
        }
        if options.corrector == true {
            guard method.corrector != .never else {
                let able = all.filter { $0.corrector != .never }.map(\.name).joined(separator: ", ")
                throw refusal("\(method.name) takes no corrector; \(able) do")
            }
            if let eta = options.eta, eta > 0 {
                throw refusal("the corrector does a step again without its noise; leave out eta or the corrector")
            }
        }
    }
}
