#if canImport(SwiftUI)
    import Foundation
    import MLXSDKit
    import SwiftUI

    /// The state of the screen: it loads the model set, makes pictures and checks itself.
    @MainActor
    final class PictureMaker: ObservableObject {
        @Published var prompt = "a red tent on green grass, under a clear day sky"
        @Published var negative = ""
        @Published var seed = "0"
        @Published var preset = SpeedPreset.fast
        @Published private(set) var status = ""
        @Published private(set) var fraction = 0.0
        @Published private(set) var shown: CGImage?
        @Published private(set) var report = ""
        @Published private(set) var task: Task<Void, Never>?

        private var sd: StableDiffusion?
        private var loadSeconds: Double?
        private var picture: GeneratedPicture?
        private var checked: String?
        private var peak: UInt64 = 0

        /// Where the model set lies in the app's bundle.
        private static var folder: URL? {
            #if SWIFT_PACKAGE
                return Bundle.module.url(forResource: "ModelSet", withExtension: nil)
            #else
                return Bundle.main.url(forResource: "ModelSet", withExtension: nil)
            #endif
        }

        /// Makes a picture and shows its estimates on the way.
        func start() {
            run {
                let sd = try await self.loaded()
                guard let seed = Int(self.seed) else { throw DiffusionError(.request, "the seed is a whole number") }
                let request = try self.preset.request(
                    prompt: self.prompt, negative: self.negative, seed: seed, info: sd.info)
                for try await progress in sd.generate(self.prompt, request) {
                    self.show(progress)
                }
            }
        }

        /// Makes the golden picture of the kit and compares the numbers.
        func check() {
            run {
                guard let folder = Self.folder else { throw Self.missing }
                self.status = "Checking: this loads every network twice"
                self.sd = nil  // the check loads networks of its own
                let result = try await SelfCheck.run(folder: folder) { share in
                    Task { @MainActor in self.fraction = share }
                }
                self.checked = result.text
            }
        }

        /// Stops after the evaluation that runs.
        func stop() {
            task?.cancel()
        }

        private static let missing = DiffusionError(.files, "the app has no ModelSet in its bundle; see README.md")

        private func run(_ work: @escaping @MainActor () async throws -> Void) {
            guard task == nil else { return }
            fraction = 0
            task = Task {
                do {
                    try await work()
                    status = Task.isCancelled ? "Stopped" : "Done"
                } catch is CancellationError {
                    status = "Stopped"
                } catch {
                    status = error.localizedDescription
                }
                note()
                task = nil
            }
        }

        private func loaded() async throws -> StableDiffusion {
            if let sd { return sd }
            guard let folder = Self.folder else { throw Self.missing }
            status = "Loading; the first time takes minutes for a large model"
            let start = Date()
            #if os(iOS)
                let sd = try await StableDiffusion(folder: folder, reduceMemory: true)
            #else
                let sd = try await StableDiffusion(folder: folder)
                try await sd.load()
            #endif
            loadSeconds = Date().timeIntervalSince(start)
            self.sd = sd
            return sd
        }

        private func show(_ progress: GenerationProgress) {
            fraction = progress.fraction
            if let image = progress.preview?.cgImage { shown = image }
            if let result = progress.result {
                picture = result
                shown = result.image.cgImage
            }
            let seconds = progress.secondsPerEvaluation.map { String(format: ", %.2f s each", $0) } ?? ""
            status = "\(progress.stage) \(progress.evaluation) of \(progress.evaluations)\(seconds)"
            note()
        }

        private func note() {
            peak = max(peak, DeviceReport.memory)
            report = DeviceReport.text(info: sd?.info, picture: picture, peak: peak, load: loadSeconds, check: checked)
        }
    }
#endif
