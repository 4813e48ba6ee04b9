import Foundation

/// Schedules: the timesteps or sigmas that a run goes through, by name or as a list from the user.
///
/// A resolved schedule is a name, or "timesteps=999,850,...", or "sigmas=14.6,6.5,...,0", which has one number more
/// than there are steps.
public enum Schedules {
    static let shapes = ["karras", "exponential", "beta"]
    /// What the same names mean in diffusers: in its Euler family, the range of the checkpoint's timestep_spacing.
    static let diffusers = (shapes + ["sgm_uniform"]).map { "diffusers_\($0)" }
    /// Timesteps of ComfyUI and A1111 between those of training.
    static let fractional = ["normal", "sgm_uniform"]
    /// What a user may list.
    static let lists = ["timesteps", "sigmas"]
    /// Of "karras" (Karras et al. 2022, eq. 5).
    static let rho = 7.0

    /// The names of all schedules.
    public static let names = ["normal"] + shapes + ["sgm_uniform", "simple", "ays"] + Scheduler.spacings + diffusers

    /// Returns the one of the shapes that a schedule spaces its sigmas by; nil for the others.
    static func shape(_ schedule: String) -> String? {
        let shape = schedule.hasPrefix("diffusers_") ? String(schedule.dropFirst("diffusers_".count)) : schedule
        return shapes.contains(shape) ? shape : nil
    }

    /// Returns the name before the "=" of a resolved schedule.
    static func kind(_ schedule: String) -> String {
        String(schedule.prefix { $0 != "=" })
    }

    /// Returns the resolved schedule for a name or a list, checked.
    static func resolved(_ text: String, _ scheduler: Scheduler) throws -> String {
        if names.contains(text) { return text }
        let kind = kind(text)
        guard lists.contains(kind), text.contains("=") else {
            throw Suggestions.unknown("schedule", text, names)
        }
        let parts = text.dropFirst(kind.count + 1).split(separator: ",", omittingEmptySubsequences: false)
        let numbers = parts.compactMap { Double($0.filter { $0 != " " }) }
        guard numbers.count == parts.count else {
            throw DiffusionError(
                .request, "\(kind) must be numbers with commas between them, not \(text.dropFirst(kind.count + 1))")
        }
        let falling = zip(numbers, numbers.dropFirst()).allSatisfy { $0 > $1 } && numbers.allSatisfy(\.isFinite)
        if kind == "timesteps" {
            let highest = scheduler.trainTimesteps - 1
            guard falling, numbers[0] <= Double(highest), numbers[numbers.count - 1] >= 0,
                numbers.allSatisfy({ $0 == $0.rounded(.down) })
            else {
                throw DiffusionError(
                    .request,
                    "timesteps must be whole numbers from \(highest) down to 0, each below the one before")
            }
        } else if !falling || numbers.count < 2 || numbers[numbers.count - 1] < 0 {
            throw DiffusionError(
                .request, "sigmas must be at least two numbers, each below the one before, down to 0 or above it")
        }
        return "\(kind)=\(numbers.map { String(format: "%.17g", $0) }.joined(separator: ","))"
    }

    /// Returns what a resolved schedule lists, and the numbers; nil for a name.
    static func userList(_ schedule: String) -> (kind: String, numbers: [Double])? {
        let kind = kind(schedule)
        guard kind.count < schedule.count else { return nil }
        return (kind, schedule.dropFirst(kind.count + 1).split(separator: ",").compactMap { Double($0) })
    }

    /// Returns the number of steps of a resolved schedule that is a list; nil for a name, which fits any number.
    public static func stepCount(_ schedule: String) -> Int? {
        userList(schedule).map { $0.numbers.count - ($0.kind == "sigmas" ? 1 : 0) }
    }

    /// Returns the timesteps of a schedule without a shape, descending, fractional for some schedules.
    ///
    /// The spacings are those of Lin et al. 2023, table 2, and diffusers.
    static func timesteps(_ scheduler: Scheduler, _ steps: Int, _ schedule: String) -> [Double] {
        if let list = userList(schedule) { return list.numbers }
        let total = Double(scheduler.trainTimesteps)
        switch schedule {
        case "normal": return Arrays.linspace(total - 1, 0, steps)  // as in ComfyUI
        case "sgm_uniform": return Arrays.linspace(total - 1, 0, steps + 1).dropLast()  // as in ComfyUI and A1111
        case "linspace": return Arrays.linspace(0, total - 1, steps).reversed()
        case "leading":
            let stride = scheduler.trainTimesteps / steps
            return (0..<steps).reversed().map { Double($0 * stride + scheduler.stepsOffset) }
        case "simple":  // as in ComfyUI, down to how the stride is rounded
            let stride = total / Double(steps)
            return (0..<steps).map { total - 1 - (Double($0) * stride).rounded(.towardZero) }
        case "ays": return alignYourSteps(scheduler, steps)
        default:  // "trailing"; the stride is rounded as NumPy's arange does
            let stride = (total + -total / Double(steps)) - total
            return (0..<steps).map { (total + Double($0) * stride).roundedToEven - 1 }
        }
    }

    /// Returns the timesteps of Sabour et al. (2024); other numbers of steps interpolate the logarithm of sigma.
    private static func alignYourSteps(_ scheduler: Scheduler, _ steps: Int) -> [Double] {
        let timesteps = scheduler.alignYourSteps.map { $0 * Double(scheduler.trainTimesteps - 1) / 999 }
        if steps == timesteps.count - 1 { return timesteps.dropLast() }
        return logLinear(sigmas(scheduler, at: timesteps, "ays"), steps).map(scheduler.timestep(sigma:))
    }

    /// Returns the sigmas at which steps begin that divide a list evenly, from its index `first` to its end.
    static func logLinear(_ sigmas: [Double], _ steps: Int, first: Double = 0) -> [Double] {
        let logs = sigmas.map { log($0) }
        return Arrays.linspace(first, Double(sigmas.count - 1), steps + 1).dropLast().map {
            exp(Arrays.value(of: logs, at: $0))
        }
    }

    /// Returns sigma at timesteps that may be fractional; the fractional schedules interpolate its logarithm.
    static func sigmas(_ scheduler: Scheduler, at timesteps: [Double], _ schedule: String) -> [Double] {
        if fractional.contains(schedule) {
            return timesteps.map { exp(Arrays.value(of: scheduler.logTrainSigmas, at: $0)) }
        }
        return timesteps.map { Arrays.value(of: scheduler.trainSigmas, at: $0) }
    }

    /// Returns `steps` sigmas from `high` down to `low`, of one of the shapes; a single step is at `high`.
    static func shapedSigmas(_ shape: String, low: Double, high: Double, steps: Int, rho: Double) -> [Double] {
        let ramp = Arrays.linspace(0, 1, steps)
        switch shape {
        case "karras":  // Karras et al. 2022, eq. 5
            let (top, bottom) = (pow(high, 1 / rho), pow(low, 1 / rho))
            return ramp.map { pow(top + $0 * (bottom - top), rho) }
        case "exponential": return Arrays.linspace(log(high), log(low), steps).map { exp($0) }
        default:  // quantiles of the Beta(0.6, 0.6) distribution (Lee et al. 2024)
            return ramp.map { low + BetaDistribution.quantile(1 - $0, a: 0.6, b: 0.6) * (high - low) }
        }
    }
}
