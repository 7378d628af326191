"""The book's notebooks for JupyterLab, for a class, and as slides, made from the one source.

`book` reads the sources and numbers what they hold; `plain` writes one cell's text in Markdown that
every notebook program shows; `editions` makes whole notebooks for students, instructors and
readers; `pages` makes those that are no chapters; `slides` makes the slides.
"""
