"""What can be known of the data before training: counts, broken files, duplicates, overlap."""
