"""An interpreter of saved Core ML packages, where Core ML cannot run: every operation, from the file, on any system.

`program` reads a package, `package` runs it, and `operations` has what each kind of operation computes.
"""
