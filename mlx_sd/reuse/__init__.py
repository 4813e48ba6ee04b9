"""What is computed once and used again: DeepCache, T-GATE, and FreeU beside them, with presets of all."""
