"""The question `transformers.shakespeare` and its parts; `question.py` is what runs."""
