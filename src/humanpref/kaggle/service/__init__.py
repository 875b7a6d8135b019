"""Talking to Kaggle: client, records, push, wait, submit, fetch."""
