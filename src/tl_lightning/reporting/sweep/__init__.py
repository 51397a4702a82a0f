"""Tables and HTML page of a sweep."""
