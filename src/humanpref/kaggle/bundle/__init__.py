"""What is uploaded: metadata, checks, wheels, staging."""
