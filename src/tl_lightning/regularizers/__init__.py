"""The regularisers: terms that hold weights or features back, one method a file."""
