"""Files by URL."""
