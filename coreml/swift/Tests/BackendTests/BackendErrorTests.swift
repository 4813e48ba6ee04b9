import Foundation
import MLXSDCore
import MLXSDCoreAI
import MLXSDCoreML
import StandInReplay
import Testing

/// What a caller or a folder has wrong is one error, before a network runs on it.
@Suite struct BackendErrorTests {
    /// Returns the message of the error that a call throws.
    private func message(_ body: () async throws -> Void) async -> String {
        do {
            try await body()
            return "no error"
        } catch let error as DiffusionError {
            return error.description.contains("\n") ? "several lines" : error.description
        } catch { return "another error: \(error)" }
    }

    /// The inputs of the first run of a role in a recording.
    private func inputs(_ role: String, _ recorded: RecordedCase) throws -> [String: Tensor] {
        let run = try #require(recorded.runs.first { $0.role == role })
        return run.inputs.filter { $0.key != "deep_feature" }.mapValues(recorded.tensor)
    }

    private func spoil(_ folder: URL, _ file: String, _ text: String, _ other: String) throws {
        let url = folder.appendingPathComponent(file)
        let content = try String(contentsOf: url, encoding: .utf8)
        try #require(content.contains(text))
        try content.replacingOccurrences(of: text, with: other).write(to: url, atomically: true, encoding: .utf8)
    }

    @Test func aSetOfTheOtherFrameworkIsRefused() async throws {
        let (ml, ai) = (try RecordedCase("text_to_image"), try RecordedCase("core_ai"))
        #expect(await message { _ = try CoreAIBackend(folder: ml.folder, info: ml.info) }.contains("use CoreMLBackend"))
        #expect(await message { _ = try CoreMLBackend(folder: ai.folder, info: ai.info) }.contains("use CoreAIBackend"))
    }

    @Test func aMissingPackageIsSaidAtOnce() async throws {
        for (name, package) in [("deepcache", "UnetChunk2.mlmodelc"), ("core_ai", "Unet.aimodel")] {
            let recorded = try RecordedCase(folder: RecordedCase(name).copy())
            try FileManager.default.removeItem(at: recorded.folder.appendingPathComponent(package))
            let text = await message { _ = try BackendReplayTests.backend(recorded) }
            #expect(text.contains("\(package.prefix { $0 != "." })") && text.contains("copy the set again"), "\(text)")
            try FileManager.default.removeItem(at: recorded.folder)
        }
    }

    @Test func aMissingFunctionIsSaidWhenItIsLoaded() async throws {
        for (name, file, role) in [
            ("functions", "UnetFunctions.mlmodelc", "unet_shallow"),
            ("core_ai_deepcache", "Unet.aimodel", "unet_shallow"),
        ] {
            let recorded = try RecordedCase(folder: RecordedCase(name).copy())
            let size = try #require(recorded.runs.first { $0.role == role }).size
            let function = try #require(recorded.info.functions(of: role, size: size)?.first).function
            try spoil(recorded.folder, "\(file)/replay.json", "\"\(function)\": {", "\"other\": {")
            let backend = try BackendReplayTests.backend(recorded)
            let text = await message { try await backend.load(role, size: size) }
            #expect(text.contains(function) && text.contains("copy or export the set again"), "\(text)")
            try FileManager.default.removeItem(at: recorded.folder)
        }
    }

    @Test func portsThatAreNotThoseOfInfoAreSaidWhenTheyAreLoaded() async throws {
        for (name, file, role) in [
            ("deepcache", "VAEDecoder.mlmodelc", "vae_decoder"),
            ("core_ai_deepcache", "VAEDecoder.aimodel", "vae_decoder"),
        ] {
            for (text, other) in [("[1, 4, 8, 8]", "[1, 4, 16, 16]"), ("\"z\"", "\"w\""), ("float16", "int32")] {
                let recorded = try RecordedCase(folder: RecordedCase(name).copy())
                try spoil(recorded.folder, "\(file)/replay.json", text, other)
                let backend = try BackendReplayTests.backend(recorded)
                let message = await message { try await backend.load(role, size: "64x64") }
                #expect(message.contains("and info.json describes"), "\(text): \(message)")
                try FileManager.default.removeItem(at: recorded.folder)
            }
        }
    }

    @Test(arguments: ["deepcache", "core_ai_deepcache"]) func whatACallHasWrongIsSaid(name: String) async throws {
        let recorded = try RecordedCase(name)
        let backend = try BackendReplayTests.backend(recorded)
        let full = recorded.info.isCoreAI ? "unet_full" : "unet_deep"
        let good = try inputs(full, recorded)
        func run(
            _ role: String, _ inputs: [String: Tensor], size: String = "64x64", deep: [WeightedFeature] = [],
            keepAs: FeatureKey? = nil
        ) async -> String {
            await message {
                _ = try await backend.run(role, size: size, inputs: inputs, deepFeature: deep, keepAs: keepAs)
            }
        }
        #expect(await run("unet_other", good).contains("has no network for unet_other"))
        #expect(await run(full, good, size: "512x512").contains("at 64x64, not at 512x512"))
        var inputs = good
        inputs["sample"] = Tensor(shape: [1, 4, 8, 8], values: Array(repeating: 0, count: 256))
        #expect(await run(full, inputs).contains("takes sample of [2, 4, 8, 8], not of [1, 4, 8, 8]"))
        inputs["sample"] = nil
        #expect(await run(full, inputs).contains("takes sample, which nothing gives"))
        #expect(await run("unet_shallow", good).contains("takes deep_feature, which nothing gives"))
        let unknown = [WeightedFeature(key: FeatureKey(evaluation: 7), weight: 1)]
        #expect(await run("unet_shallow", good, deep: unknown).contains("no deep feature of evaluation 7"))
        let half = [WeightedFeature(key: FeatureKey(evaluation: 7), weight: 0.5)]
        #expect(await run("unet_shallow", good, deep: half).contains("no deep feature of evaluation 7"))
        let z = try self.inputs("vae_decoder", recorded)
        #expect(await run("vae_decoder", z, keepAs: FeatureKey(evaluation: 0)).contains("no deep feature to keep"))
        inputs = good
        inputs["timestep"] = Tensor(shape: [2], values: [1, 1])
        #expect(await run(full, inputs).contains("failed: "))  // what the framework itself reports
        #expect(await run(full, good) == "no error")
    }

    @Test(arguments: ["deepcache", "core_ai_deepcache"]) func aForgottenFeatureIsGone(name: String) async throws {
        let recorded = try RecordedCase(name)
        let backend = try BackendReplayTests.backend(recorded)
        let full = recorded.info.isCoreAI ? "unet_full" : "unet_deep"
        let runs = [0, 1].map { FeatureKey(evaluation: $0) }
        for key in runs {
            _ = try await backend.run(
                full, size: "64x64", inputs: inputs(full, recorded), deepFeature: [], keepAs: key)
        }
        func shallow(_ key: FeatureKey) async -> String {
            await message {
                _ = try await backend.run(
                    "unet_shallow", size: "64x64", inputs: self.inputs("unet_shallow", recorded),
                    deepFeature: [WeightedFeature(key: key, weight: 1)], keepAs: nil)
            }
        }
        #expect(await shallow(runs[0]) == "no error")
        await backend.forget([runs[0]])
        #expect(await shallow(runs[0]).contains("no deep feature of evaluation 0"))
        #expect(await shallow(runs[1]) == "no error")
        await backend.forget(nil)
        #expect(await shallow(runs[1]).contains("no deep feature of evaluation 1"))
    }

    @Test func aRoleIsLoadedOnceAndFreed() async throws {
        let recorded = try RecordedCase(folder: RecordedCase("deepcache").copy())
        let backend = try CoreMLBackend(folder: recorded.folder, info: recorded.info)
        for _ in 0..<2 { try await backend.load("vae_decoder", size: "64x64") }
        _ = try await backend.run(
            "vae_decoder", size: "64x64", inputs: inputs("vae_decoder", recorded), deepFeature: [], keepAs: nil)
        #expect(
            ReplayLog.shared.lines(in: recorded.folder) == ["load VAEDecoder.mlmodelc", "run VAEDecoder.mlmodelc main"])
        await backend.unload("vae_decoder", size: "64x64")
        #expect(ReplayLog.shared.lines(in: recorded.folder).last == "free VAEDecoder.mlmodelc")
        _ = try await backend.run(
            "vae_decoder", size: "64x64", inputs: inputs("vae_decoder", recorded), deepFeature: [], keepAs: nil)
        #expect(ReplayLog.shared.lines(in: recorded.folder).filter { $0.hasPrefix("load") }.count == 2)
        try FileManager.default.removeItem(at: recorded.folder)
    }

    @Test func cancelledTasksRunNothing() async throws {
        for name in ["deepcache", "core_ai_deepcache"] {
            let recorded = try RecordedCase(name)
            let backend = try BackendReplayTests.backend(recorded)
            let z = try inputs("vae_decoder", recorded)
            let task = Task {
                withUnsafeCurrentTask { $0?.cancel() }
                return try await backend.run("vae_decoder", size: "64x64", inputs: z, deepFeature: [], keepAs: nil)
            }
            await #expect(throws: CancellationError.self) { try await task.value }
        }
    }

    @Test func packagesAreCompiledOnceAndKept() async throws {
        let recorded = try RecordedCase(folder: RecordedCase("deepcache").copy())
        for name in recorded.info.packages.keys {
            try FileManager.default.moveItem(
                at: recorded.folder.appendingPathComponent("\(name).mlmodelc"),
                to: recorded.folder.appendingPathComponent("\(name).mlpackage"))
        }
        let home = recorded.folder.appendingPathComponent("compiled")
        for attempt in 0..<2 {
            let backend = try CoreMLBackend(
                folder: recorded.folder, info: recorded.info, compiled: CompiledPackages(folder: home))
            _ = try await backend.run(
                "vae_decoder", size: "64x64", inputs: inputs("vae_decoder", recorded), deepFeature: [], keepAs: nil)
            let kept = try FileManager.default.contentsOfDirectory(atPath: home.path)
            #expect(kept.count == 1 && kept[0].count == 64, "attempt \(attempt): \(kept)")
            let paths = try FileManager.default.contentsOfDirectory(atPath: home.appendingPathComponent(kept[0]).path)
            #expect(paths == ["VAEDecoder.mlmodelc"])
        }
        let compiled = try CompiledPackages(folder: home)
        #expect(await compiled.bytes > 0)
        try await compiled.removeAll()
        #expect(await compiled.bytes == 0)
        let other = recorded.folder.appendingPathComponent("No.mlpackage")
        let text = await message { _ = try await compiled.url(of: other, files: ["a": .init(bytes: 0, sha256: "")]) }
        #expect(text.contains("cannot be compiled"))
        #expect(try FileManager.default.contentsOfDirectory(atPath: home.path).isEmpty)
        try FileManager.default.removeItem(at: recorded.folder)
    }

    @Test func theStandInFindsCallsFromAnotherQueue() throws {
        let place = CallPlace()
        let first = DispatchQueue(label: "first")
        let second = DispatchQueue(label: "second")
        try first.sync { try place.check("it") }
        try first.sync { try place.check("it") }
        #expect(throws: ReplayError.self) { try second.sync { try place.check("it") } }
    }
}
