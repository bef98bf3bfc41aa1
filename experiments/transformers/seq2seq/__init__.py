"""The question `transformers.seq2seq` and its parts; `question.py` is what runs."""
