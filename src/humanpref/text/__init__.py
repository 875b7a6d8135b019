"""Conversations as text: formats, tokens within a budget, and what can be counted. Knows nothing of
models."""
