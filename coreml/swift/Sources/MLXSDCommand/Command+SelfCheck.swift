import Foundation
import MLXSDKit

extension Command {
    /// Makes the golden picture of the kit and compares the numbers; returns the exit code, 1 where they are wrong.
    static func checkItself(_ arguments: Arguments) async throws -> Int32 {
        let folder = URL(fileURLWithPath: arguments.folder ?? "", isDirectory: true)
        let isShown = !arguments.quiet && !arguments.json && isatty(2) == 1
        let result = try await SelfCheck.run(folder: folder, units: arguments.computeUnits) { share in
            if isShown { say(String(format: "\r%.0f %%", 100 * share), end: "") }
        }
        if isShown { say("\r\u{1B}[K", end: "") }
        print(arguments.json ? try Report.json(result) : result.text)
        return result.passed ? 0 : 1
    }
}
