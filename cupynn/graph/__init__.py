"""A network, or the tape of any tensor, as a picture: SVG, HTML or Graphviz's DOT.

    from cupynn.graph import draw

    draw(loss).save("tape.svg")
    draw(expanded, cupynn.contract(expanded), depth=2).save("both.html")

`calls.py` reads the tape, `folding.py` makes boxes of calls, `layout.py` gives them places, `svg.py` and `dot.py` write
what they are told. In a notebook a drawing shows itself.
"""

from cupynn.graph.drawing import Drawing, draw

__all__ = ["Drawing", "draw"]
