"""Interfaces for using a trained model from other programs."""
