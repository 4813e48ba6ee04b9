"""Errors, files, configs read field by field, the BLAS for CPUs, and the version; every other package imports them."""
