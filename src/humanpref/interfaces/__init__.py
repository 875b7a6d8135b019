"""What people call a trained model by."""
