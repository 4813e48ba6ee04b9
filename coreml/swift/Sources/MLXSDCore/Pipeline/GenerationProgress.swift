/// The pictures that a request begins with, as files are on the Python side.
public struct InputPictures: Sendable, Equatable {
    /// The image to begin with, of any size; it is scaled to the picture's.
    public var image: RGBImage?
    /// White where to paint, else black; of the image's shape.
    public var mask: RGBImage?
    /// What each control network of the request sees.
    public var controls: [RGBImage]

    /// Joins the pictures.
    public init(image: RGBImage? = nil, mask: RGBImage? = nil, controls: [RGBImage] = []) {
        (self.image, self.mask, self.controls) = (image, mask, controls)
    }
}

/// What a generation shows of its estimates.
public enum PreviewRule: Sendable, Equatable {
    /// Nothing.
    case none
    /// One pixel for each latent, by a linear map: far below a millisecond.
    case linear
    /// The decoded estimate after every so many evaluations, for the time of the decoder; linear ones between.
    case decoded(every: Int)
}

/// What a generation has reached: each event holds all that the ones before it said, so that none is missed.
public struct GenerationProgress: Sendable {
    /// What is being done: prompts and images encoded, the UNet evaluated, the picture decoded, or nothing more.
    public enum Stage: Sendable { case encoding, denoising, decoding, finished }

    /// What is being done.
    public internal(set) var stage = Stage.encoding
    /// The number of the picture that is being made, from 0.
    public internal(set) var picture = 0
    /// How many pictures are made.
    public let count: Int
    /// How many evaluations of this picture's UNet are done.
    public internal(set) var evaluation = 0
    /// How many there are.
    public let evaluations: Int
    /// A picture of the latest estimate, of one pixel for each latent unless it was decoded.
    public internal(set) var preview: RGBImage?
    /// The latest estimate of the clean latents, (1, channels, height, width).
    public internal(set) var estimate: Tensor?
    /// The pictures that are finished.
    public internal(set) var pictures: [GeneratedPicture] = []
    /// The mean of this picture's evaluations so far.
    public internal(set) var secondsPerEvaluation: Double?
    /// The seconds that prompts and images took.
    public internal(set) var encodeSeconds = 0.0

    init(evaluations: Int, count: Int) {
        (self.evaluations, self.count) = (evaluations, count)
    }

    /// The share of all evaluations that are done, from 0 to 1.
    public var fraction: Double {
        Double(pictures.count * evaluations + (stage == .finished ? 0 : evaluation)) / Double(count * evaluations)
    }

    /// The last picture, once all are finished.
    public var result: GeneratedPicture? { pictures.count == count ? pictures.last : nil }
}

/// A picture, and what it took.
public struct GeneratedPicture: Sendable, Equatable {
    /// The picture, of the request's size; with a mask of its image's.
    public let image: RGBImage
    /// (1, channels, height, width), of about unit variance.
    public let latents: Tensor
    /// The completed request: it makes this picture again.
    public let request: GenerationRequest
    /// The seed of its noise.
    public let seed: UInt64
    /// How many times the UNet was evaluated.
    public let evaluations: Int
    /// How many of these ran the whole UNet.
    public let fullEvaluations: Int
    /// Of prompts and images, shared by all pictures of a run.
    public let encodeSeconds: Double
    /// Of each evaluation, handlers of progress not counted.
    public let evaluationSeconds: [Double]
    /// Of the decoder.
    public let decodeSeconds: Double
}
