import Foundation

/// Numbers evenly spaced and between others, rounded as NumPy rounds them.
enum Arrays {
    /// Returns `count` numbers from `first` to `last`; without `endpoint` the last is left out.
    static func linspace(_ first: Double, _ last: Double, _ count: Int, endpoint: Bool = true) -> [Double] {
        guard count > 0 else { return [] }
        let divisions = endpoint ? count - 1 : count
        guard divisions > 0 else { return [first] }
        let step = (last - first) / Double(divisions)
        var numbers = (0..<count).map { Double($0) * step + first }
        if endpoint { numbers[count - 1] = last }
        return numbers
    }

    /// Returns the fractional index at which numbers that rise have the value `x`, linear between two of them.
    static func index(of x: Double, in xs: [Double]) -> Double {
        let last = xs.count - 1
        if x < xs[0] { return 0 }
        if x >= xs[last] { return Double(last) }
        var low = 0
        var high = last
        while high - low > 1 {  // xs[low] <= x < xs[high]
            let middle = (low + high) / 2
            if xs[middle] <= x { low = middle } else { high = middle }
        }
        if xs[low] == x { return Double(low) }
        return 1 / (xs[low + 1] - xs[low]) * (x - xs[low]) + Double(low)
    }

    /// Returns the value of numbers at a fractional index, linear between two of them; the ends go on level.
    static func value(of ys: [Double], at index: Double) -> Double {
        guard index > 0 else { return ys[0] }
        let low = Int(index)
        guard low < ys.count - 1 else { return ys[ys.count - 1] }
        return (ys[low + 1] - ys[low]) * (index - Double(low)) + ys[low]
    }

    /// Returns the solution of a small system of linear equations, by elimination with row exchanges.
    static func solved(_ matrix: [[Double]], _ right: [Double]) -> [Double] {
        var rows = zip(matrix, right).map { $0 + [$1] }
        let count = rows.count
        for column in 0..<count {
            let pivot = (column..<count).max { abs(rows[$0][column]) < abs(rows[$1][column]) } ?? column
            rows.swapAt(column, pivot)
            for row in (column + 1)..<max(count, column + 1) {
                let factor = rows[row][column] / rows[column][column]
                for i in column...count { rows[row][i] -= factor * rows[column][i] }
            }
        }
        var solution = [Double](repeating: 0, count: count)
        for row in (0..<count).reversed() {
            let known = ((row + 1)..<max(count, row + 1)).reduce(0.0) { $0 + rows[row][$1] * solution[$1] }
            solution[row] = (rows[row][count] - known) / rows[row][row]
        }
        return solution
    }
}

extension Double {
    /// The nearest whole number; halves go to the even one.
    var roundedToEven: Double { rounded(.toNearestOrEven) }
}
