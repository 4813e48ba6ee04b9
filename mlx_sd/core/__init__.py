"""What every other package builds on: errors, files read with suspicion, the CPU library, the version."""
