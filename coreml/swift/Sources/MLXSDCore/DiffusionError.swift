import Foundation

/// A mistake in a request, a file or a model set: one line that says what, where, and the way out.
public struct DiffusionError: Error, Equatable, CustomStringConvertible, LocalizedError {
    /// Whose mistake it is: of the caller's values, of files on the disk, or of a network at work.
    public enum Kind: Sendable { case request, files, network }

    public let kind: Kind
    public let description: String
    public var errorDescription: String? { description }

    /// Joins whose mistake it is and its line.
    public init(_ kind: Kind, _ description: String) {
        self.kind = kind
        self.description = description
    }
}
