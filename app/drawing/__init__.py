"""`figure KIND`: one module per source of what is drawn. Their functions take models, run folders or files and return a
matplotlib Figure, so that a notebook can call them too."""
