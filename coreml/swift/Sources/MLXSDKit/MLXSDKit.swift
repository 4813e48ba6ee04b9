@_exported import MLXSDCore
