"""The question `language_models.tokenizers` and its parts; `question.py` is what runs."""
