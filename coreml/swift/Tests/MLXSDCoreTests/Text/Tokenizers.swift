import Foundation
import GoldenFiles

@testable import MLXSDCore

/// The vocabularies of golden files, `tiny` and `large`, as both text encoders of SDXL take them.
enum Tokenizers {
    struct Settings: Decodable {
        let start: Int
        let end: Int
        let pad: Int
        let length: Int
    }

    struct Case: Decodable {
        let text: String
        let ids: [[Int]]
    }

    struct File: Decodable {
        let tokenizers: [Settings]
        let texts: [Case]
    }

    static func file(_ name: String) throws -> File {
        try Goldens.json("text/\(name)/ids.json")
    }

    static func load(_ name: String, _ settings: Settings) throws -> CLIPTokenizer {
        try CLIPTokenizer(
            vocabulary: Goldens.data("text/\(name)/vocab.json"), merges: Goldens.data("text/\(name)/merges.txt"),
            start: settings.start, end: settings.end, pad: settings.pad, length: settings.length)
    }

    /// Loads a vocabulary as the first text encoder takes it.
    static func load(_ name: String) throws -> CLIPTokenizer {
        try load(name, Goldens.json("text/\(name)/tokenizer.json"))
    }
}
