"""One module per library; each has a function per row that it takes part in."""
