"""Reads LoRA, LoHa, LoKr and DoRA files and merges them into a model's weights."""
