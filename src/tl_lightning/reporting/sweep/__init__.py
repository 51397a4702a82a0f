"""The table and page of a sweep."""
