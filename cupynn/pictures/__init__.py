"""What every picture and page shares: colours for light and for dark, figures, one self-contained HTML file.

It knows nothing of networks: those who have something to show call it.
"""

from cupynn.pictures.figure import Draw, draw_figure, picture_bytes, save_picture
from cupynn.pictures.page import Page
from cupynn.pictures.theme import DARK, LIGHT, Theme, css_variables

__all__ = ["DARK", "LIGHT", "Draw", "Page", "Theme", "css_variables", "draw_figure", "picture_bytes", "save_picture"]
