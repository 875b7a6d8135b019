"""Judge probabilities against labels, whatever model they come from."""
