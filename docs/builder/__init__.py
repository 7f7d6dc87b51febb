"""Pages of the site that are made from sources, docstrings, parsers and measured figures: nothing is typed twice."""
