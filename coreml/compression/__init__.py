"""Smaller weights as numbers: palettes, scaled integers and sparse weights, and a search for the bits of each layer.

Nothing here depends on the format of the packages: an emitter is handed a description of each compressed weight.
"""
