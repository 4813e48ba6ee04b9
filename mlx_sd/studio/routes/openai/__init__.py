"""OpenAI's Images API, as its clients speak it."""
