import MLXSDCore

/// Returns the largest distance of numbers from others: infinite where a distance is NaN, or where there are more of one.
public func largestDistance<T: BinaryFloatingPoint>(_ ours: some Collection<T>, _ theirs: some Collection<T>) -> T {
    guard ours.count == theirs.count else { return .infinity }
    return zip(ours, theirs).reduce(0) { largest, pair in
        let distance = abs(pair.0 - pair.1)
        return distance.isNaN ? .infinity : max(largest, distance)
    }
}

/// Returns the largest difference over the largest expected number; infinite for another count or a NaN.
public func distance(_ numbers: [Float], _ expected: [Float]) -> Float {
    let largest = expected.reduce(Float.leastNormalMagnitude) { max($0, abs($1)) }
    return largestDistance(numbers, expected) / largest
}

/// Returns the largest difference of two pictures in levels; 256 for other sizes.
public func levels(_ picture: RGBImage, _ expected: RGBImage) -> Int {
    guard picture.size == expected.size else { return 256 }
    return zip(picture.bytes, expected.bytes).map { abs(Int($0) - Int($1)) }.max() ?? 0
}
