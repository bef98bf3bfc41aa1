"""The question `transformers.masked_lm` and its parts; `question.py` is what runs."""
