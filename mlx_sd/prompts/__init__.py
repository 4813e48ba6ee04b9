"""Prompts as token ids for the text encoders."""
