"""The Studio: one local server with a page, and the two APIs that other programs already speak."""
