"""One file a verb; its docstring is its help."""
