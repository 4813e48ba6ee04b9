#if canImport(SwiftUI)
    import SwiftUI

    @main
    struct SampleApp: App {
        @StateObject private var maker = PictureMaker()

        var body: some Scene {
            WindowGroup {
                ContentView(maker: maker)
            }
        }
    }
#else
    /// Where there is no SwiftUI the folder still builds, which is how its manifest is tested.
    @main
    enum SampleApp {
        static func main() {
            print("The sample app needs iOS, iPadOS or macOS.")
        }
    }
#endif
