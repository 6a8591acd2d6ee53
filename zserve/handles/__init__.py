"""Calling endpoints from Python: handles, their answers, and the values that travel with them."""
