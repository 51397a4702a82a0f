"""Serving of a trained model over HTTP, with a page to try it on (extra ``serve``)."""
