"""Zero-shot pass@1 of two models over an OpenAI-compatible endpoint, with a paired interval."""
