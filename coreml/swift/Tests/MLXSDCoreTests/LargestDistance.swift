/// Returns the largest distance of numbers from others: infinite where a distance is NaN, or where there are more of one.
func largestDistance<T: BinaryFloatingPoint>(_ ours: some Collection<T>, _ theirs: some Collection<T>) -> T {
    guard ours.count == theirs.count else { return .infinity }
    return zip(ours, theirs).reduce(0) { largest, pair in
        let distance = abs(pair.0 - pair.1)
        return distance.isNaN ? .infinity : max(largest, distance)
    }
}
