"""The emitter for Core ML: operations and compressed weights in MIL, and saved .mlpackage folders, with coremltools."""
