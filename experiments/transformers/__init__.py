"""Language models and other transformers on real text, held against published numbers."""
