"""The names of the styles in which prompts may be written; `styles` says what each does."""

A1111, COMFY, COMPEL, PLAIN = "a1111", "comfy", "compel", "plain"
PROMPT_STYLES = (A1111, COMFY, COMPEL, PLAIN)  # the default first
