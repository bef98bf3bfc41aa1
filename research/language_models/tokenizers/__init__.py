"""Text as tokens and back: byte pairs and unigram pieces, learned here or read from files."""
