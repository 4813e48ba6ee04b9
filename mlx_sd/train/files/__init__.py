"""The files that a training leaves, in the formats that other programs read."""
