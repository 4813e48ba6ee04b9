"""Tests of the memory that is counted before a training."""
