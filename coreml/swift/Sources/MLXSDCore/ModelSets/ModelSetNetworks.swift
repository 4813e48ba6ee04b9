import Foundation

extension ModelSetInfo {
    /// The configs of a checkpoint's networks, as far as a pipeline needs them.
    public struct Networks: Codable, Sendable, Equatable {
        /// Of "text_encoder" and "text_encoder_2", in this order, those that are there.
        public let textEncoders: [TextEncoder]
        public let unet: UNet
        public let vae: VAE
        /// All fields, as Hugging Face names them.
        public let configs: JSONValue

        /// Reads the configs of Hugging Face by the part's name.
        public init(from decoder: any Decoder) throws {
            let configs = try JSONValue(from: decoder)
            let container = try decoder.container(keyedBy: AnyKey.self)
            self.configs = configs
            textEncoders = try ["text_encoder", "text_encoder_2"].compactMap { part in
                guard let config = configs[part] else { return nil }
                let fields = try container.nestedContainer(keyedBy: AnyKey.self, forKey: AnyKey(part))
                let width = try fields.decode(Int.self, forKey: "hidden_size")
                return TextEncoder(part: part, config: config, width: width)
            }
            unet = try container.decode(UNet.self, forKey: "unet")
            vae = try container.decode(VAE.self, forKey: "vae")
        }

        /// Writes all fields as they were read.
        public func encode(to encoder: any Encoder) throws {
            try configs.encode(to: encoder)
        }
    }

    /// The config of a text encoder.
    public struct TextEncoder: Sendable, Equatable {
        /// Its role, for example "text_encoder_2".
        public let part: String
        /// The width of its hidden states.
        public let width: Int
        /// The width of the projected pooled output; nil where the network projects nothing.
        public let projection: Int?
        /// The class in transformers, for example "CLIPTextModelWithProjection".
        public let kind: String

        init(part: String, config: JSONValue, width: Int) {
            (self.part, self.width) = (part, width)
            kind = config["architectures"]?.list.first?.string ?? "CLIPTextModel"
            projection = kind == "CLIPTextModelWithProjection" ? config["projection_dim"]?.integer ?? 512 : nil
        }
    }

    /// The config of the UNet.
    public struct UNet: Decodable, Sendable, Equatable {
        /// Latents, and what the UNet sees beside them: 9 of an inpainting checkpoint with 4 latent channels.
        public let inChannels: Int
        /// Widths of the context, finest level first; one where all levels share it.
        public let contextWidths: [Int]
        /// The number of latents a side that it was trained on.
        public let sampleSize: Int
        /// The levels, of which all but the last halve height and width.
        public let levels: Int
        /// The width of each embedded size (SDXL), nil without `text_embeds` and `time_ids`.
        public let addedTimeWidth: Int?
        /// The width of the embedded guidance scale, the input `timestep_cond` (latent consistency models), or nil.
        public let guidanceWidth: Int?
        /// The number of noise levels or classes that `class_labels` chooses from, or nil.
        public let classes: Int?

        /// Reads the config of a UNet2DConditionModel.
        public init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: AnyKey.self)
            let config = try JSONValue(from: decoder)
            inChannels = try container.decode(Int.self, forKey: "in_channels")
            contextWidths = (config["cross_attention_dim"] ?? .integer(1280)).list.compactMap(\.integer)
            sampleSize = config["sample_size"]?.list.first?.integer ?? 64
            levels = try container.decode([Int].self, forKey: "block_out_channels").count
            let added = config["addition_embed_type"]?.string == "text_time"
            addedTimeWidth = added ? config["addition_time_embed_dim"]?.integer : nil
            guidanceWidth = config["time_cond_proj_dim"]?.integer
            classes = config["num_class_embeds"]?.integer
        }
    }

    /// The config of the autoencoder: latents for the UNet are `scale * (z - shift)`, per channel `(z - mean) / deviation`.
    public struct VAE: Decodable, Sendable, Equatable {
        public let latentChannels: Int
        /// The channels of pictures: 3.
        public let imageChannels: Int
        public let scalingFactor: Double
        public let shiftFactor: Double
        /// A mean and a standard deviation per channel, or both empty.
        public let latentsMean: [Double]
        public let latentsDeviation: [Double]
        /// Whether the encoder returns latents, and not their mean and log variance.
        public let isDeterministic: Bool

        /// Reads the config of an AutoencoderKL or an AutoencoderTiny.
        public init(from decoder: any Decoder) throws {
            let config = try JSONValue(from: decoder)
            let isTiny = config["_class_name"]?.string == "AutoencoderTiny"
            latentChannels = config["latent_channels"]?.integer ?? 4
            imageChannels = config["out_channels"]?.integer ?? 3
            scalingFactor = config["scaling_factor"]?.number ?? (isTiny ? 1 : 0.18215)
            shiftFactor = config["shift_factor"]?.number ?? 0
            latentsMean = isTiny ? [] : config["latents_mean"]?.list.compactMap(\.number) ?? []
            latentsDeviation = isTiny ? [] : config["latents_std"]?.list.compactMap(\.number) ?? []
            isDeterministic = isTiny
        }
    }

    /// A control network beside the UNet; its roles are "control:NAME", "control_shallow:NAME", "control_image:NAME".
    public struct Control: Codable, Sendable, Equatable {
        /// The hub id or path that the export was told.
        public let model: String
        /// The mode of a union, fixed by the export; nil for a network of one kind.
        public let mode: String?
        public let hash: String
        /// All fields of its config, as Hugging Face names them.
        public let config: JSONValue

        /// The channels of its control image.
        public var imageChannels: Int { config["conditioning_channels"]?.integer ?? 3 }
        /// Whether its residuals are means over the picture; the half without a prompt then has none.
        public var pools: Bool { config["global_pool_conditions"]?.bool ?? false }
    }
}

/// A key of a JSON object that is not known before.
struct AnyKey: CodingKey, ExpressibleByStringLiteral {
    let stringValue: String
    let intValue: Int?

    init(_ name: String) { (stringValue, intValue) = (name, nil) }
    init(stringLiteral name: String) { self.init(name) }
    init?(stringValue: String) { self.init(stringValue) }
    init?(intValue: Int) { (stringValue, self.intValue) = (String(intValue), intValue) }
}
