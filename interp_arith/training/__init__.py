"""HOW it learns."""
