"""From models, run folders and files to figures: one module per source of what is drawn.

Every function here returns a matplotlib Figure or an Animation and saves nothing, so that a notebook can call it too.
`app.drawing.kinds` lists the kinds that the command line draws.
"""
