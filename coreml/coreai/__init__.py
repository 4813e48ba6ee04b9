"""The emitter for Core AI: operations and constants of coreai-core, saved .aimodel folders, and Apple's own runtime.

coreai-core is an extra (`mlx-sd[coreai]`): `availability` says in one line where it is missing, and every other module
imports it when it is used. `child` runs assets in a process of its own, which imports neither MLX nor mlx_sd.
"""
