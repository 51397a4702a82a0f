"""On-disk caches of decoded images, tokens and features."""
