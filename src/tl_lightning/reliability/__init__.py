"""What accuracy to expect without labels, and how far to trust a prediction."""
