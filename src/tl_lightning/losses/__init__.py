"""Classification losses and regularizers."""
