"""The files to upload: metadata, checks, wheels, staging."""
