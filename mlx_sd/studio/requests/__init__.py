"""What clients send, as checked requests: ids in place of paths, and one line for each mistake."""
