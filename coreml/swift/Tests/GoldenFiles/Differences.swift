import MLXSDCore

/// Returns the largest difference over the largest expected number; infinite for another count or a NaN.
public func distance(_ numbers: [Float], _ expected: [Float]) -> Float {
    guard numbers.count == expected.count, numbers.allSatisfy(\.isFinite) else { return .infinity }
    let largest = expected.reduce(Float.leastNormalMagnitude) { max($0, abs($1)) }
    return zip(numbers, expected).reduce(0) { max($0, abs($1.0 - $1.1)) } / largest
}

/// Returns the largest difference of two pictures in levels; 256 for other sizes.
public func levels(_ picture: RGBImage, _ expected: RGBImage) -> Int {
    guard picture.size == expected.size else { return 256 }
    return zip(picture.bytes, expected.bytes).map { abs(Int($0) - Int($1)) }.max() ?? 0
}
