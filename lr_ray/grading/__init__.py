"""Reading an answer off a completion and judging it. Imports nothing of the rest but errors."""
