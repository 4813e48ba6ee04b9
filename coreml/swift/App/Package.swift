// swift-tools-version: 6.0
// A sample app around the model set in ModelSet and the package in MLXSDKit; README.md says how to open it.

import PackageDescription

var products: [Product] = [.executable(name: "Sample", targets: ["Sample"])]

// Xcode and Swift Playgrounds make an app for iPhone and iPad of it; `swift run` opens a window on a Mac.
#if canImport(AppleProductTypes)
    import AppleProductTypes

    products = [
        .iOSApplication(
            name: "Sample",
            targets: ["Sample"],
            bundleIdentifier: "com.example.mlxsd.sample",
            displayVersion: "1.0",
            bundleVersion: "1",
            appIcon: .placeholder(icon: .image),
            accentColor: .presetColor(.indigo),
            supportedDeviceFamilies: [.pad, .phone],
            supportedInterfaceOrientations: [.portrait, .landscapeRight, .landscapeLeft]
        )
    ]
#endif

let package = Package(
    name: "Sample",
    platforms: [.iOS("16.0"), .macOS("13.0")],
    products: products,
    dependencies: [.package(path: "MLXSDKit")],
    targets: [
        .executableTarget(
            name: "Sample",
            dependencies: [.product(name: "MLXSDKit", package: "MLXSDKit")],
            path: ".",
            exclude: ["MLXSDKit", "README.md", "Sample.entitlements", "app.json", "project.yml"],
            sources: ["Sample"],
            resources: [.copy("ModelSet")]
        )
    ],
    swiftLanguageModes: [.v6]
)
