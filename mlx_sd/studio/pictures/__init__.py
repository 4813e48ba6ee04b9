"""Picture files: those that clients send, and the gallery of those that were made."""
