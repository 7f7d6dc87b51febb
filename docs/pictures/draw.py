"""Draws the README's picture: `python docs/pictures/draw.py` writes overview.svg beside this file."""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, BLUE, GREEN, SAND = "#263238", "#d6e6f5", "#d9ecd3", "#f6e8cf"


def box(axes, x, y, width, height, text, colour, size=10):
    style = "round,pad=0.02,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour, edgecolor=INK, lw=1))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=INK)


def arrow(axes, start, end, text="", above=0.12):
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=INK, lw=1.2))
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    axes.text(x, y + above, text, ha="center", va="bottom", fontsize=8.5, color=INK)


figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 3.3), width_ratios=(1.25, 1))
for axes in (left, right):
    axes.set_aspect("equal")
    axes.axis("off")

left.set_title("Train wide, ship compact", fontsize=12, color=INK, loc="left")
for i, (text, height) in enumerate([("3x3\n8 to 32", 1.1), ("3x3\n32 to 64", 1.7), ("3x3\n64 to 16", 1.1)]):
    box(left, 1.3 * i, 2.3 - height / 2, 1.05, height, text, BLUE)
left.text(1.83, 3.35, "what is trained", ha="center", fontsize=9, color=INK)
arrow(left, (3.8, 2.3), (5.2, 2.3), "contract")
left.text(4.5, 2.02, "exact", ha="center", va="top", fontsize=8.5, color=INK)
box(left, 5.35, 1.75, 1.05, 1.1, "7x7\n8 to 16", GREEN)
left.text(5.88, 3.35, "what is shipped", ha="center", fontsize=9, color=INK)
box(left, 1.3, 0.1, 4.0, 0.62, "training runs the contracted kernel:\nthe gradient goes back through it", SAND, 8.5)
arrow(left, (5.88, 1.7), (5.35, 0.62))
arrow(left, (1.25, 0.62), (0.6, 1.7))
left.set_xlim(-0.2, 6.7)
left.set_ylim(-0.1, 3.8)

right.set_title("One kernel source, two processors", fontsize=12, color=INK, loc="left")
box(right, 0, 1.45, 1.9, 1.1, "conv.cu\nplain CUDA C++", BLUE)
for height in (3.0, 2.0, 1.0):
    arrow(right, (2.0, 2.0), (3.7, height))
right.text(2.75, 2.75, "NVRTC", ha="right", fontsize=8.5, color=INK)
right.text(3.05, 2.08, "g++, clang++", ha="center", fontsize=8.5, color=INK)
right.text(2.75, 1.1, "instrumented", ha="right", fontsize=8.5, color=INK)
box(right, 3.8, 2.65, 2.3, 0.7, "GPU", GREEN)
box(right, 3.8, 1.65, 2.3, 0.7, "CPU: vectors, cores", GREEN)
box(right, 3.8, 0.65, 2.3, 0.7, "checked: races,\noverruns, barriers", SAND, 9)
right.set_xlim(-0.1, 6.3)
right.set_ylim(-0.1, 3.8)

figure.tight_layout()
here = pathlib.Path(__file__).parent
figure.savefig(here / "overview.svg", metadata={"Date": None})
