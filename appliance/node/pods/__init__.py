"""The pod runner and its CRI client."""
