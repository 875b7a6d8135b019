"""Interfaces through which other programs use a trained model."""
