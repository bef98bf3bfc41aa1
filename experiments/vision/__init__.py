"""Images: convolutions against attention."""
