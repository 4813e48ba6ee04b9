import Foundation
import MLXSDCommand

exit(await Command.run(Array(CommandLine.arguments.dropFirst())))
