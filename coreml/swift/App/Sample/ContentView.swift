#if canImport(SwiftUI)
    import SwiftUI

    /// The one screen: prompt, picture, settings and a report that can be copied.
    struct ContentView: View {
        @ObservedObject var maker: PictureMaker

        private var isRunning: Bool { maker.task != nil }

        var body: some View {
            ScrollView {
                VStack(alignment: .leading, spacing: 16) {
                    picture
                    TextField("What the picture shows", text: $maker.prompt, axis: .vertical)
                        .textFieldStyle(.roundedBorder)
                    TextField("What to steer away from", text: $maker.negative, axis: .vertical)
                        .textFieldStyle(.roundedBorder)
                    settings
                    buttons
                    report
                }
                .padding()
                .frame(maxWidth: 640)
                .frame(maxWidth: .infinity)
            }
        }

        private var picture: some View {
            VStack(alignment: .leading, spacing: 4) {
                ZStack {
                    RoundedRectangle(cornerRadius: 8).fill(.quaternary)
                    if let image = maker.shown {
                        Image(decorative: image, scale: 1).resizable().interpolation(.medium).scaledToFit()
                    }
                }
                .aspectRatio(1, contentMode: .fit)
                .accessibilityElement()
                .accessibilityLabel(maker.shown == nil ? "No picture yet" : "Picture of \(maker.prompt)")
                ProgressView(value: maker.fraction)
                Text(maker.status).font(.footnote).foregroundStyle(.secondary).textSelection(.enabled)
            }
        }

        private var settings: some View {
            HStack {
                Picker("Speed", selection: $maker.preset) {
                    ForEach(SpeedPreset.allCases) { Text($0.rawValue).tag($0) }
                }
                .pickerStyle(.segmented)
                TextField("Seed", text: $maker.seed)
                    .textFieldStyle(.roundedBorder)
                    .frame(width: 110)
                    .accessibilityLabel("Seed")
                Button {
                    maker.seed = String(UInt32.random(in: 0...UInt32.max))
                } label: {
                    Image(systemName: "dice")
                }
                .accessibilityLabel("Random seed")
            }
            .disabled(isRunning)
        }

        private var buttons: some View {
            HStack {
                if isRunning {
                    Button("Stop", role: .cancel) { maker.stop() }
                } else {
                    Button("Make picture") { maker.start() }
                        .buttonStyle(.borderedProminent)
                        .keyboardShortcut(.return, modifiers: .command)
                }
                Spacer()
                Button("Self-check") { maker.check() }.disabled(isRunning)
                ShareLink(item: maker.report) { Text("Copy report") }.disabled(maker.report.isEmpty)
            }
        }

        private var report: some View {
            Text(maker.report)
                .font(.caption.monospaced())
                .textSelection(.enabled)
                .frame(maxWidth: .infinity, alignment: .leading)
        }
    }
#endif
