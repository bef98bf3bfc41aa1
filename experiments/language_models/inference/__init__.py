"""The question `language_models.inference` and its parts; `question.py` is what runs."""
