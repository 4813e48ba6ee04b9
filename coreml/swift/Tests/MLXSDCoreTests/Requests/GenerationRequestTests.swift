import Foundation
import GoldenFiles
import Testing

@testable import MLXSDCore

@Suite struct GenerationRequestTests {
    private struct Valid: Decodable {
        let read, written: JSONValue
    }

    private struct Invalid: Decodable {
        let read: JSONValue
        let error: String
    }

    private struct Field: Decodable {
        let key: String
        let always: Bool
    }

    /// Returns the value with all numbers as Double, so that 7 and 7.0 are equal.
    private func plain(_ value: JSONValue) -> JSONValue {
        switch value {
        case .integer(let number): .number(Double(number))
        case .array(let values): .array(values.map(plain))
        case .object(let fields): .object(fields.mapValues(plain))
        default: value
        }
    }

    private func written(_ request: GenerationRequest) throws -> JSONValue {
        plain(try JSONDecoder().decode(JSONValue.self, from: JSONEncoder().encode(request)))
    }

    private func difference(_ a: JSONValue, _ b: JSONValue) -> String {
        guard case .object(let a) = a, case .object(let b) = b else { return "" }
        return Set(a.keys).union(b.keys).sorted().filter { a[$0] != b[$0] }
            .map { "\($0): \(a[$0]?.shown ?? "-") instead of \(b[$0]?.shown ?? "-")" }.joined(separator: "; ")
    }

    @Test("A request reads and writes the JSON that Python reads and writes")
    func roundTrip() throws {
        let cases: [Valid] = try Goldens.json("requests/valid.json")
        #expect(cases.count >= 300)
        for golden in cases {
            do {
                let request: GenerationRequest = try golden.read.decoded()
                let ours = try written(request)
                #expect(ours == plain(golden.written), "\(difference(ours, plain(golden.written)))")
                #expect(try golden.written.decoded(as: GenerationRequest.self) == request, "\(golden.read.shown)")
            } catch {
                Issue.record("\(golden.read.shown): \(error)")
            }
        }
    }

    @Test("A request with nothing set is Python's default")
    func defaults() throws {
        let python: JSONValue = try Goldens.json("requests/default.json")
        #expect(try written(GenerationRequest()) == plain(python))
    }

    @Test("What Python refuses is refused, with one clear error")
    func invalid() throws {
        let cases: [Invalid] = try Goldens.json("requests/invalid.json")
        #expect(cases.count >= 100)
        for golden in cases {
            #expect(throws: DiffusionError.self, "\(golden.read.shown): \(golden.error)") {
                try golden.read.decoded(as: GenerationRequest.self)
            }
        }
    }

    @Test("What a model set cannot honour is refused, and the message names the field")
    func unavailable() throws {
        for values in try Goldens.json("requests/unavailable.json", as: [JSONValue].self) {
            guard case .object(let fields) = values, let key = fields.keys.first else { continue }
            do {
                _ = try values.decoded(as: GenerationRequest.self)
                Issue.record("\(values.shown) was accepted")
            } catch let error as DiffusionError {
                let names = ["deepcache": "DeepCache", "controls": "canny"]
                #expect(error.description.contains(names[key] ?? key), "\(error)")
                #expect(!error.description.contains("\n"))
            }
        }
    }

    @Test("Every field of Python's record is known here, and written in the same cases")
    func fields() throws {
        let names =
            GenerationRequest.CodingKeys.allCases.map(\.rawValue)
            + SolverOptions.CodingKeys.allCases.map(\.rawValue) + RequestFields.hashes + RequestFields.unused.keys
        let fields: [Field] = try Goldens.json("requests/fields.json")
        #expect(Set(names) == Set(fields.map(\.key)) && names.count == Set(names).count)
        for field in fields {
            if let unused = RequestFields.unused[field.key] { #expect(unused.always == field.always, "\(field.key)") }
        }
    }

    @Test("A value out of range is refused in code as well")
    func ranges() {
        var request = GenerationRequest(prompt: "a red tent", steps: 0)
        #expect(throws: DiffusionError.self) { try request.checked() }
        request.steps = 4
        request.options.rho = 0
        #expect(throws: DiffusionError.self) { try request.checked() }
        request.options.rho = nil
        request.controls = [ControlRequest(model: "canny", image: "x.png", start: 0.5, end: 0.5)]
        #expect(throws: DiffusionError.self) { try request.checked() }
        request.controls = []
        request.guidance = .nan
        #expect(throws: DiffusionError.self) { try request.checked() }
    }
}
