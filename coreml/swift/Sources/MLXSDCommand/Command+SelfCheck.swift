import Foundation
import MLXSDKit

extension Command {
    /// Makes the golden picture of the kit and compares the numbers; returns the exit code, 1 where they are wrong.
    static func checkItself(_ arguments: Arguments) async throws -> Int32 {
        let folder = URL(fileURLWithPath: arguments.folder ?? "", isDirectory: true)
        let progress = Progress(isShown: !arguments.quiet && !arguments.json)
        let result = try await SelfCheck.run(folder: folder, units: arguments.computeUnits) { share in
            progress.show(String(format: "%.0f %%", 100 * share))
        }
        progress.end()
        print(arguments.json ? try Report.json(result) : result.text)
        return result.passed ? 0 : 1
    }
}
