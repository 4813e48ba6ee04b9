import Foundation
import MLXSDCore
import MLXSDCoreML
import Testing

/// The golden picture of a kit comes out of recorded networks, and a spoilt part of the kit or the set is found.
@Suite struct SelfCheckTests {
    private func report(_ folder: URL) async throws -> SelfCheckReport {
        let info = try ModelSetInfo(folder: folder)
        let check = try SelfCheck(folder: folder, info: info)
        return try await check.run(units: .cpuOnly, on: CoreMLBackend(folder: folder, info: info, units: .cpuOnly))
    }

    @Test func allPartsPass() async throws {
        let folder = try RecordedCase("self_check").folder
        let info = try ModelSetInfo(folder: folder)
        let comparison = try await SelfCheck(folder: folder, info: info).run(units: .cpuAndNeuralEngine) {
            try CoreMLBackend(folder: folder, info: info, units: $0)
        }
        #expect(comparison.passed, "\(comparison.cpu.lines)")
        #expect(comparison.cpu.units == .cpuOnly && comparison.chosen.units == .cpuAndNeuralEngine)
        let names = ["tokens", "noise", "encoder_hidden_states", "noise_pred", "latents", "image"]
        #expect(comparison.cpu.parts.map(\.name) == names && comparison.cpu.psnr > 35)
        #expect(comparison.cpu.evaluationSeconds.count == 6 && comparison.cpu.lines.count == 8)
        let data = try JSONEncoder().encode(comparison)
        #expect(try JSONDecoder().decode(SelfCheckComparison.self, from: data) == comparison)
    }

    /// A change of one number of a file of the kit, and the part that then fails.
    static let spoilt = [
        ("kit/picture/encoder_hidden_states.f32", "encoder_hidden_states"),
        ("kit/picture/noise_pred.f32", "noise_pred"),
        ("kit/picture/image.f32", "image"), ("kit/noise/noise-torch-0.f32", "noise"),
    ]

    @Test(arguments: spoilt) func aSpoiltPartFails(file: String, part: String) async throws {
        let folder = try RecordedCase("self_check").copy()
        let url = folder.appendingPathComponent(file)
        var data = try Data(contentsOf: url)
        data.replaceSubrange(4..<8, with: withUnsafeBytes(of: Float(50)) { Data($0) })
        try data.write(to: url)
        let report = try await report(folder)
        #expect(report.parts.filter { !$0.passed }.map(\.name) == [part], "\(report.lines)")
        try FileManager.default.removeItem(at: folder)
    }

    @Test func tokensAreCompared() async throws {
        let folder = try RecordedCase("self_check").copy()
        let url = folder.appendingPathComponent("kit/prompts.json")
        var text = try String(contentsOf: url, encoding: .utf8)
        text = text.replacingOccurrences(of: "698", with: "697")
        try text.write(to: url, atomically: true, encoding: .utf8)
        let failed = try await report(folder).parts.filter { !$0.passed }
        #expect(failed.map(\.name) == ["tokens"] && failed.first?.distance == 200)
        try FileManager.default.removeItem(at: folder)
    }

    @Test func aSetWithoutAKitIsSaid() throws {
        let recorded = try RecordedCase("deepcache")
        #expect {
            try SelfCheck(folder: recorded.folder, info: recorded.info)
        } throws: { "\($0)".contains("export the set with --kit") }
    }
}
