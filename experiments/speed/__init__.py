"""What our machinery costs beside the plain program that a researcher would write by hand."""
