"""Files that checkpoints come in: downloads, names of tensors, kinds of files, safetensors written as a stream."""
