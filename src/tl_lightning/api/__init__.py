"""The Python interface: create parts, train, test, load and predict."""
