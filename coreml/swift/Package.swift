// swift-tools-version: 6.0
// Stable Diffusion from the model sets that `python -m coreml` writes. `import MLXSDKit` is all that an app needs.

import Foundation
import PackageDescription

var backends: [Target] = [
    .target(name: "MLXSDCoreML", dependencies: ["MLXSDCore"]),
    .target(name: "MLXSDCoreAI", dependencies: ["MLXSDCore"]),
]
var standIns: [Target] = []
var ofTests: [Target.Dependency] = ["GoldenFiles", "MLXSDCore", "MLXSDKit", "MLXSDCoreML", "MLXSDCoreAI"]

// Apple's frameworks do not exist on Linux. Modules of their names stand in for them, so that the back ends compile, and
// replay recorded networks in tests.
#if os(Linux)
    backends = [
        .target(name: "MLXSDCoreML", dependencies: ["MLXSDCore", "CoreML"]),
        .target(name: "MLXSDCoreAI", dependencies: ["MLXSDCore", "CoreAI"]),
    ]
    standIns = [
        .target(name: "StandInReplay", path: "StandIns/Replay"),
        .target(name: "CoreML", dependencies: ["StandInReplay"], path: "StandIns/CoreML"),
        .target(name: "CoreAI", dependencies: ["StandInReplay"], path: "StandIns/CoreAI"),
    ]
    ofTests += ["CoreML", "CoreAI"]
#endif

let targets: [Target] = [
    .target(name: "MLXSDCore"),
    .target(name: "MLXSDKit", dependencies: ["MLXSDCore", "MLXSDCoreML", "MLXSDCoreAI"]),
    .target(name: "MLXSDCommand", dependencies: ["MLXSDKit"]),
    .executableTarget(name: "mlxsd-swift", dependencies: ["MLXSDCommand"]),
]

// Tests stay in the repository of mlx-sd; their golden files are written by Python.
var tests: [Target] = []
if FileManager.default.fileExists(atPath: "\(Context.packageDirectory)/Tests") {
    tests = [
        .target(name: "GoldenFiles", dependencies: ["MLXSDCore"], path: "Tests/GoldenFiles"),
        .testTarget(name: "MLXSDCoreTests", dependencies: ["MLXSDCore", "GoldenFiles"]),
        .testTarget(name: "BackendTests", dependencies: ofTests),
        .testTarget(name: "CommandTests", dependencies: ["MLXSDCommand"]),
    ]
}

let package = Package(
    name: "MLXSDKit",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [
        .library(name: "MLXSDKit", targets: ["MLXSDKit"]),
        .executable(name: "mlxsd-swift", targets: ["mlxsd-swift"]),
    ],
    targets: targets + backends + standIns + tests,
    swiftLanguageModes: [.v6]
)
