"""Analyses of networks and of their training, each a function that gives `Figures`: a table, a picture, JSON.

    from cupynn.analysis.do_conv import do_conv_difference
    from cupynn.pictures import save_picture

    found = do_conv_difference(cupynn.load("runs/do/model.safetensors"))
    print(found.rows(), found.record())
    save_picture(found.draw, "h.svg", found.size)

One file per analysis; `cupynn analyse` has them all, and docs/analysis.md says what each measures.
"""

from cupynn.analysis.figures import Figures

__all__ = ["Figures"]
