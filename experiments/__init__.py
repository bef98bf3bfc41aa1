"""One folder a study, one file a question: assemble, run, state the claims."""
