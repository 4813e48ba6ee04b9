import Foundation

/// The names of samplers and schedules in other programs, and ours for them.
///
/// Read are the names of AUTOMATIC1111's web UI and its forks, ComfyUI, diffusers (class names), InvokeAI, Apple's Core
/// ML packages and stable-diffusion.cpp, in any case, with spaces, dashes, underscores or none of them.
public enum SamplerNames {
    /// The three settings of a request that names decide, under our names; nil is left open.
    public struct Choice: Sendable, Equatable {
        public var sampler: String?
        public var schedule: String?
        public var kind: String?
    }

    /// A sampler, and what else its name decides.
    struct Meaning: Sendable, Equatable {
        var sampler: String
        var schedule: String?
        var kind: String?
    }

    /// Returns sampler, schedule and kind under our names: what a sampler's name carries, it sets.
    ///
    /// Throws `DiffusionError(.request)` for a name that is unknown or has no equal here, and where the sampler's name
    /// carries another schedule or kind than the other argument.
    public static func canonical(sampler: String?, schedule: String? = nil, kind: String? = nil) throws -> Choice {
        let meaning = try sampler.map(readSampler)
        let named = try schedule.flatMap { try readSchedule($0, sampler: meaning?.sampler) }
        guard let sampler, let meaning else { return Choice(sampler: nil, schedule: named, kind: kind) }
        if let carried = meaning.schedule, let schedule, named != nil, named != carried, !open.contains(key(schedule)) {
            throw DiffusionError(
                .request,
                "the sampler \"\(sampler)\" names the schedule \(carried), not \(schedule); leave one of them out")
        }
        if let carried = meaning.kind, let kind, kind != carried {
            throw DiffusionError(
                .request, "the sampler \"\(sampler)\" names the kind \(carried), not \(kind); leave one of them out")
        }
        return Choice(
            sampler: meaning.sampler, schedule: meaning.schedule ?? named, kind: kind ?? meaning.kind)
    }

    /// Returns the sampler that a name of any program means, with what the name decides beside it.
    static func readSampler(_ name: String) throws -> Meaning {
        if Samplers.names.contains(name) { return Meaning(sampler: name) }
        let key = withoutScheduler(key(name))
        if scheduleTable[key] != nil, samplerTable[key] == nil {
            throw DiffusionError(.request, "\"\(name)\" is a schedule, not a sampler; give it as the schedule")
        }
        let starts = key.hasPrefix("k") ? [key, String(key.dropFirst())] : [key]  // A1111's k_euler_a
        for start in starts {
            for (ending, schedule) in endings {
                let stem = start.hasSuffix(ending) ? String(start.dropLast(ending.count)) : start
                if start.hasSuffix(ending), var meaning = samplerTable[stem] {
                    meaning.schedule = schedule
                    return meaning
                }
                let plain = stem.hasSuffix("gpu") ? String(stem.dropLast(3)) : stem
                try refuse("the sampler \"\(name)\"", plain, noSampler)
            }
        }
        throw Suggestions.unknown("sampler", name, Samplers.names)
    }

    /// Returns the schedule that a name of any program means; nil where it leaves the choice open.
    ///
    /// `sampler` decides what A1111's "Automatic" means. A list is returned as it is.
    static func readSchedule(_ name: String, sampler: String?) throws -> String? {
        if Schedules.names.contains(name) || Schedules.lists.contains(Schedules.kind(name)) || name.hasSuffix(".json") {
            return name
        }
        let key = withoutScheduler(key(name))
        if open.contains(key) { return automatic[sampler ?? ""] }
        if let schedule = scheduleTable[key] { return schedule }
        try refuse("the schedule \"\(name)\"", key, noSchedule)
        if samplerTable[key] != nil || noSampler[key] != nil || (try? readSampler(name)) != nil {
            throw DiffusionError(.request, "\"\(name)\" is a sampler, not a schedule; give it as the sampler")
        }
        throw Suggestions.unknown("schedule", name, Schedules.names)
    }

    // ------------------------------------------------------------------------------------------------ tables

    /// Returns a name without case and without what separates its words.
    static func key(_ name: String) -> String {
        let separators: Set<Unicode.Scalar> = ["_", "(", ")", ".", "-"]
        var key = String.UnicodeScalarView()
        for scalar in name.lowercased().unicodeScalars where !separators.contains(scalar) {
            if !scalar.properties.isWhitespace { key.append(scalar == "+" ? "p" : scalar) }
        }
        return String(key)
    }

    private static func withoutScheduler(_ key: String) -> String {
        key.hasSuffix("scheduler") ? String(key.dropLast("scheduler".count)) : key
    }

    /// Throws for a name of which the table says that it has no equal.
    private static func refuse(_ words: String, _ key: String, _ table: [String: NoEqual]) throws {
        guard let reason = table[key] else { return }
        throw DiffusionError(
            .request, "\(words) has no equal here: \(reason.reason); the nearest is \(reason.nearest)")
    }

    /// Every name of a sampler, as `key` writes it, without the schedules that may follow.
    static let samplerTable: [String: Meaning] = {
        var table: [String: Meaning] = [:]
        for (name, meaning) in SchedulerClasses.meanings {
            table[key(name)] = (meaning.sampler ?? meaning.algorithms.first?.sampler).map { Meaning(sampler: $0) }
        }
        for name in Samplers.names { table[key(name)] = Meaning(sampler: name) }
        return table.merging(otherSamplers) { $1 }
    }()

    /// Every name of a schedule, as `key` writes it.
    static let scheduleTable: [String: String] = {
        let own = Schedules.names.map { (key($0), $0) }
        return Dictionary(own + otherSchedules.map { ($0.key, $0.value) }) { $1 }
    }()

    /// What may stand at the end of a sampler's name; beside schedules, A1111's short aliases and InvokeAI's "_k".
    private static let endings: [(String, String?)] =
        [("", nil)] + scheduleTable.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
        + [("ka", "karras"), ("k", "karras"), ("sgm", "sgm_uniform")]
}
