"""Training data: a folder of pictures with captions, the sizes they are cut to, their order, and what is cached."""
