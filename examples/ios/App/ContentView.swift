import SwiftUI

/// One screen: prompt, seed, progress, picture. The bundle is the folder `bundle` of the app's documents.
struct ContentView: View {
    @StateObject private var maker = PictureMaker(
        folder: FileManager.default.urls(for: .documentDirectory, in: .userDomainMask)[0].appendingPathComponent("bundle"))
    @State private var prompt = ""
    @State private var seed = "0"

    var body: some View {
        ScrollView {
            VStack(alignment: .leading, spacing: 16) {
                TextField("Prompt", text: $prompt, axis: .vertical)
                    .textFieldStyle(.roundedBorder)
                TextField("Seed", text: $seed)
                    .textFieldStyle(.roundedBorder)
                HStack {
                    Button(maker.isBusy ? "Stop" : "Make a picture") {
                        if maker.isBusy { maker.stop() } else if let number = Int64(seed) { maker.make(prompt: prompt, seed: number) }
                    }
                    .buttonStyle(.borderedProminent)
                    .disabled(Int64(seed) == nil)
                    Button("Check the bundle") { maker.check() }
                        .disabled(maker.isBusy)
                }
                ProgressView(value: maker.progress)
                    .opacity(maker.isBusy ? 1 : 0)
                Text(maker.status)
                    .font(.footnote.monospaced())
                    .textSelection(.enabled)
                if let picture = maker.picture {
                    Image(decorative: picture, scale: 1)
                        .resizable()
                        .scaledToFit()
                        .accessibilityLabel(prompt)
                }
            }
            .padding()
        }
    }
}

@main
struct WuerstchenApp: App {
    var body: some Scene {
        WindowGroup { ContentView() }
    }
}
