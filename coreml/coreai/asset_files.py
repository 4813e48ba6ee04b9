"""The files of an .aimodel folder, and the key under which its metadata holds the content of info.json."""

SUFFIX = ".aimodel"
BYTECODE = "main.mlirb"  # the program with all weights
HASH = "main.hash"  # the SHA-256 of it, 32 bytes
METADATA = "metadata.json"
KEY = "mlx_sd"  # of the creator-defined metadata
