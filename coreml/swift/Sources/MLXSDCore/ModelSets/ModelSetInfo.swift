import Foundation

/// info.json: which packages or assets a folder holds, and how they make a picture.
public struct ModelSetInfo: Codable, Sendable, Equatable {
    /// What runs the networks.
    public enum Format: String, Codable, Sendable {
        case coreML = "mlx-sd Core ML"
        case coreAI = "mlx-sd Core AI"
    }

    /// The type of an input's or an output's numbers.
    public enum PortType: String, Codable, Sendable { case float16, float32, int32 }

    /// An input or an output of a function.
    public struct Port: Codable, Sendable, Equatable {
        public let shape: [Int]
        public let dtype: PortType

        /// Joins a shape and a type.
        public init(shape: [Int], dtype: PortType) { (self.shape, self.dtype) = (shape, dtype) }
    }

    /// A function of a package.
    public struct Function: Codable, Sendable, Equatable {
        public let role: String
        /// [width, height] of the pictures in pixels, nil for text.
        public let size: [Int]?
        public let inputs: [String: Port]
        public let outputs: [String: Port]
        /// Inputs that the function writes in place (Core AI), or nil.
        public let states: [String]?
        /// Multiplications and additions of one run.
        public let macs: Int?
    }

    /// A package (.mlpackage, .mlmodelc) or an asset (.aimodel).
    public struct Package: Codable, Sendable, Equatable {
        public let bytes: Int?
        /// Of an asset's main file (Core AI).
        public let sha256: String?
        public let functions: [String: Function]
    }

    /// The names of a package and of one of its functions.
    public struct FunctionName: Codable, Sendable, Hashable {
        public let package: String
        public let function: String

        /// Joins two names.
        public init(package: String, function: String) { (self.package, self.function) = (package, function) }

        /// Reads ["package", "function"].
        public init(from decoder: any Decoder) throws {
            let names = try [String](from: decoder)
            guard names.count == 2 else {
                let context = DecodingError.Context(codingPath: decoder.codingPath, debugDescription: "two names")
                throw DecodingError.typeMismatch([String].self, context)
            }
            (package, function) = (names[0], names[1])
        }

        /// Writes ["package", "function"].
        public func encode(to encoder: any Encoder) throws {
            try [package, function].encode(to: encoder)
        }
    }

    /// The checkpoint.
    public struct Model: Codable, Sendable, Equatable {
        public let name: String
        public let hash: String

        /// Strength of guidance where a request names none: that of the embedded checkpoint, or of the family.
        func defaultGuidance(isXL: Bool) -> Double {
            name == "tiny" ? 3 : isXL ? 5 : 7.5
        }
    }

    /// Where the UNet was cut, and what each of its roles costs.
    public struct DeepCache: Codable, Sendable, Equatable {
        public let branch: Int
        public let macs: [String: Int]?
    }

    /// The latents that the UNet works on.
    public struct Latents: Codable, Sendable, Equatable {
        public let channels: Int
        /// Pixels along each side of one latent.
        public let factor: Int
        public let scalingFactor: Double

        enum CodingKeys: String, CodingKey {
            case channels, factor
            case scalingFactor = "scaling_factor"
        }
    }

    /// The token ids of a text encoder's tokenizer; `length` with the start and the end token.
    public struct Tokenizer: Codable, Sendable, Equatable {
        public let start: Int
        public let end: Int
        public let pad: Int
        public let length: Int
    }

    /// The options of the export.
    public struct Options: Codable, Sendable, Equatable {
        public let dtype: String?
        public let attention: String?
        public let target: String?
        public let compress: String?
        public let unets: [String]?
        public let sizes: [[Int?]]?
        public let batch: Int?
        public let stateful: Bool?
        public let control: [String]?
    }

    /// The length and SHA-256 of a file.
    public struct File: Codable, Sendable, Equatable {
        public let bytes: Int
        public let sha256: String

        /// Joins a length in bytes and a SHA-256 in lower-case hexadecimal.
        public init(bytes: Int, sha256: String) { (self.bytes, self.sha256) = (bytes, sha256) }
    }

    /// The newest version of the file that this package reads; the oldest is 1.
    public static let newestVersion = 3
    static let name = "info.json"

    public let format: Format
    public let version: Int
    public let madeBy: String?
    public let model: Model
    public let options: Options
    /// Size ("512x512" or "any") -> role -> the functions that run one after the other.
    public let roles: [String: [String: [FunctionName]]]
    public let deepcache: DeepCache
    public let latents: Latents
    /// The checkpoint's scheduler config.
    public let scheduler: JSONValue
    /// "epsilon", "v_prediction", "sample" or "edm".
    public let prediction: String
    /// Of each training timestep, 9 digits; empty for EDM.
    public let alphasCumprod: [Double]
    /// One for each text encoder.
    public let tokenizers: [Tokenizer]
    public let networks: Networks
    /// model_index.json of the checkpoint, for example "force_zeros_for_empty_prompt".
    public let pipeline: JSONValue
    public let packages: [String: Package]
    /// Every file of the folder by its path there, but info.json; empty in version 1.
    public let files: [String: File]
    /// Control networks by name; empty up to version 2.
    public let controls: [String: Control]

    enum CodingKeys: String, CodingKey {
        case format, version, model, options, roles, deepcache, latents, scheduler, prediction
        case tokenizers, networks, pipeline, packages, files, controls
        case madeBy = "made_by"
        case alphasCumprod = "alphas_cumprod"
    }

    /// Reads the fields of info.json; `init(folder:)` has clearer errors.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        format = try container.decode(Format.self, forKey: .format)
        version = try container.decode(Int.self, forKey: .version)
        madeBy = try container.decodeIfPresent(String.self, forKey: .madeBy)
        model = try container.decode(Model.self, forKey: .model)
        options = try container.decode(Options.self, forKey: .options)
        roles = try container.decode([String: [String: [FunctionName]]].self, forKey: .roles)
        deepcache = try container.decode(DeepCache.self, forKey: .deepcache)
        latents = try container.decode(Latents.self, forKey: .latents)
        scheduler = try container.decode(JSONValue.self, forKey: .scheduler)
        prediction = try container.decode(String.self, forKey: .prediction)
        alphasCumprod = try container.decode([Double].self, forKey: .alphasCumprod)
        tokenizers = try container.decode([Tokenizer].self, forKey: .tokenizers)
        networks = try container.decode(Networks.self, forKey: .networks)
        pipeline = try container.decode(JSONValue.self, forKey: .pipeline)
        packages = try container.decode([String: Package].self, forKey: .packages)
        files = try container.decodeIfPresent([String: File].self, forKey: .files) ?? [:]
        controls = try container.decodeIfPresent([String: Control].self, forKey: .controls) ?? [:]
    }
}
