"""One run: rows in, an artifact out; artifacts and rows in, probabilities out."""
