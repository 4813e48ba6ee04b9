"""Runs saved Core ML packages where Core ML cannot: every operation, from the file, on any system."""

from .package import Package

__all__ = ["Package"]
