"""Communication with Kaggle: client, records, push, wait, submit, fetch."""
