"""From a checked configuration to a finished run."""
