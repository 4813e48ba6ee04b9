"""Golden files of the Swift package's tests, written from the Python side: `python -m tests.support.swift_goldens OUT`.

Each module writes its part with `write(folder)` into a subfolder of its own. Swift's tests find the folder by the
environment variable MLXSD_GOLDENS.
"""
