"""Diffusion over tokens: corruption, its reversal, and samplers that call the network only when a token changes."""
