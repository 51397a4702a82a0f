"""What is wrong with a configuration, said before any work starts."""
