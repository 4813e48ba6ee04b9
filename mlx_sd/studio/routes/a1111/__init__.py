"""A1111's API, as its clients speak it."""
