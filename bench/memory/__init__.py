"""Memory, time and bytes of converting a checkpoint and of lowering its networks to Core ML."""
