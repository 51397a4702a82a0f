"""Building, training and testing of a run, and the writing of its results."""
