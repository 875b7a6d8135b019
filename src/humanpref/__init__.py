"""humanpref: which of two language-model answers does a human prefer? P(A), P(B), P(tie)."""

__version__ = "0.1.0"
