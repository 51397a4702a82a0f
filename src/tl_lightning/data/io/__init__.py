"""Reading images, texts, vectors and tables from disk, and downloads."""
