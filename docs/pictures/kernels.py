"""What a block and a thread of a kernel compute, as drawings."""

from __future__ import annotations

from typing import Any

from pictures.shapes import Drawing

from cupynn.pictures import Theme

BLUE, ORANGE, GREEN, PURPLE = range(4)


def whe(figure: Any, theme: Theme) -> None:
    """A group of 4 channels."""
    d = Drawing(figure.subplots(), theme, 12, 4.9)
    strip = {(1, column): BLUE for column in range(2, 6)}
    for channel in range(4):
        d.grid(0.2 + 0.25 * channel, 1.9 - 0.3 * channel, 8, 4, 0.3, strip if channel == 3 else {})
    d.frame(0.95 + 0.6, 1.0 + 0.6, 1.2, 0.3, BLUE)
    d.text(1.75, 4.1, "x: the g channels of a group\n(g = 4)")
    d.text(1.9, 0.42, "a thread: a strip of pixels,\nits g inputs in registers (GPU)\nor the nearest cache (CPU)")
    d.arrow((3.6, 2.1), (4.4, 2.1))
    d.grid(4.6, 0.95, 4, 4, 0.6, {(1, column): ORANGE for column in range(4)})
    d.frame(4.6, 0.95 + 1.2, 2.4, 0.6, ORANGE)
    for i in range(4):
        for j in range(4):
            d.text(4.9 + 0.6 * j, 3.05 - 0.6 * i, f"h({i},{j})", 6.5)
    d.text(5.8, 4.1, "h(i,j) = A x(i) + B x(j) + C\na row or some at a time, never in memory")
    d.text(5.8, 0.45, "A, B, C, D of the group:\nin shared memory")
    d.arrow((7.2, 2.45), (8.3, 2.45))
    d.text(7.75, 2.85, "Σ D f(h)", 8)
    for channel in range(4):
        d.grid(8.5 + 0.25 * channel, 1.9 - 0.3 * channel, 8, 4, 0.3, strip if channel == 3 else {})
    d.frame(9.25 + 0.6, 1.0 + 0.6, 1.2, 0.3, BLUE)
    d.text(10.1, 4.1, "y: the same pixels\nof the g outputs")
    d.text(10.1, 0.45, "a block: one group,\nsome pixels of the batch")


def conv(figure: Any, theme: Theme) -> None:
    """A 3x3 convolution; strips of 6 outputs."""
    d = Drawing(figure.subplots(), theme, 12, 4.9)
    border = {(row, column): PURPLE for row in range(7) for column in range(8) if row in (0, 6) or column in (0, 7)}
    window = {(row, column): BLUE for row in (1, 2, 3) for column in range(1, 7)}
    d.grid(0.3, 0.95, 8, 7, 0.4, border | window)
    d.frame(0.7, 0.95 + 1.2, 2.4, 1.2, BLUE)
    d.text(1.9, 4.25, "a block stages a tile of x\nin shared memory, padding included")
    d.text(1.9, 0.45, "for each tap, a strip of neighbours")
    d.text(4.2, 2.5, "*", 16)
    for channel in range(4):
        d.grid(4.9 + 0.18 * channel, 2.0 - 0.2 * channel, 3, 3, 0.4, {(0, 0): ORANGE} if channel == 3 else {})
    d.text(5.7, 4.25, "packed weights: CHANNELS\noutput channels side by side")
    d.text(5.75, 0.45, "one tap at a time")
    d.arrow((7.0, 2.3), (7.9, 2.3))
    d.text(7.45, 2.7, "fma", 8)
    for channel in range(4):
        for strip in range(2):
            d.grid(8.2 + 1.75 * strip, 3.1 - 0.5 * channel, 4, 1, 0.4, {(0, column): GREEN for column in range(4)})
    d.frame(8.1, 1.5, 3.55, 2.1, GREEN)
    d.text(9.9, 4.25, "a thread: CHANNELS x STRIPS strips\nof outputs, in registers")
    d.text(9.9, 0.75, "STRIPS loads and CHANNELS weights\nfor CHANNELS x STRIPS products")


def depthwise(figure: Any, theme: Theme) -> None:
    """Four output strips of a 3x3 kernel, one below the other."""
    d = Drawing(figure.subplots(), theme, 12, 4.6)
    rows = {(row, column): BLUE for row in range(1, 7) for column in range(2, 8)}
    d.grid(0.4, 0.8, 10, 8, 0.35, rows)
    d.frame(0.4 + 0.7, 0.8 + 0.35, 2.1, 2.1, BLUE)
    d.text(2.15, 4.1, "one plane of x, staged;\nROWS + KH - 1 = 6 rows are read")
    d.text(2.15, 0.35, "a team of threads: a plane, or a band of its rows")
    d.text(5.0, 2.2, "*", 16)
    d.grid(5.7, 1.6, 3, 3, 0.4, {(i, j): ORANGE for i in range(3) for j in range(3)})
    d.text(6.3, 4.1, "the channel's own kernel,\nin registers")
    d.arrow((7.4, 2.2), (8.3, 2.2))
    outputs = {(row, column): GREEN for row in range(4) for column in range(6)}
    d.grid(8.7, 1.5, 6, 4, 0.35, outputs)
    d.frame(8.7, 1.5, 2.1, 1.4, GREEN)
    d.text(9.75, 4.1, "a thread: ROWS = 4 strips\nof y, one below the other")
    d.text(9.75, 0.9, "each row of x that is loaded\nserves up to KH of them")


def cross_layer(figure: Any, theme: Theme) -> None:
    """Four preceding layers."""
    d = Drawing(figure.subplots(), theme, 12, 4.6)
    run = {(1, column): BLUE for column in range(1, 5)}
    for layer in range(4):
        x = 0.3 + 2.0 * layer
        d.grid(x, 1.9, 5, 4, 0.3, run)
        d.frame(x + 0.3, 2.5, 1.2, 0.3, BLUE)
        d.text(x + 0.75, 3.4, f"h{layer}", 9)
        d.text(x + 0.75, 1.55, f"times weight[{layer}, c]", 8)
        if layer:
            d.text(x - 0.25, 1.55, "+", 10)
    d.text(4.0, 4.1, "channel c of every preceding layer, read where it lies, through a table of addresses")
    d.box(2.0, 0.3, 4.0, 0.55, "table of L addresses", ORANGE)
    for layer in range(4):
        d.arrow((2.5 + layer, 0.87), (1.05 + 2.0 * layer, 1.35))
    d.arrow((8.2, 2.65), (9.3, 2.65))
    d.grid(9.6, 1.9, 5, 4, 0.3, {(1, column): GREEN for column in range(1, 5)})
    d.frame(9.9, 2.5, 1.2, 0.3, GREEN)
    d.text(10.35, 3.4, "y", 9)
    d.text(10.2, 1.2, "a thread: a run of strips,\nfor which it meets all layers;\none write for L reads", 8)


def contract(figure: Any, theme: Theme) -> None:
    """Two 3x3 kernels make one of 5x5."""
    d = Drawing(figure.subplots(), theme, 12, 4.9)
    pairs = [((0, 1), (1, 1)), ((1, 1), (0, 1)), ((0, 2), (1, 0)), ((1, 0), (0, 2)), ((0, 0), (1, 2)), ((1, 2), (0, 0))]
    d.grid(0.6, 1.5, 3, 3, 0.6, {second: ORANGE for second, _ in pairs})
    d.text(1.5, 4.2, "second: 3x3,\nP to O channels")
    d.text(3.1, 2.4, "*", 16)
    d.grid(3.8, 1.5, 3, 3, 0.6, {first: BLUE for _, first in pairs})
    d.text(4.7, 4.2, "first: 3x3,\nI to P channels")
    for number, (second, first) in enumerate(pairs, 1):
        for x, tap in ((0.6, second), (3.8, first)):
            d.text(x + 0.3 + 0.6 * tap[1], 1.8 + 0.6 * (2 - tap[0]), str(number), 8)
    d.arrow((5.9, 2.4), (7.0, 2.4))
    d.grid(7.4, 0.95, 5, 5, 0.58, {(1, 2): GREEN})
    d.frame(7.4 + 1.16, 0.95 + 1.74, 0.58, 0.58, GREEN)
    d.text(8.85, 4.3, "the contracted 5x5, I to O channels")
    d.text(
        3.1, 0.75, "a task: one tap t of the result, the sum over the pairs\nof taps with s + r = t, here six of them"
    )
    d.text(8.85, 0.45, "each pair a matrix product: (O, P) times (P, I)")


def winograd(figure: Any, theme: Theme) -> None:
    """F(4x4, 3x3)."""
    d = Drawing(figure.subplots(), theme, 12, 4.9)
    d.grid(0.2, 1.4, 6, 6, 0.33, {(i, j): BLUE for i in range(6) for j in range(6)})
    d.text(1.2, 4.2, "6x6 pixels of\na channel of x")
    d.arrow((2.35, 2.4), (3.35, 2.4))
    d.text(2.85, 2.8, "$B^T X B$", 8.5)
    for channel in range(3):
        d.grid(3.5 + 0.16 * channel, 1.55 - 0.15 * channel, 6, 6, 0.33, {(2, 3): ORANGE} if channel == 2 else {})
    d.text(4.65, 4.2, "36 frequencies\nof every channel")
    d.arrow((6.0, 2.4), (7.0, 2.4))
    d.text(6.5, 3.0, "one matrix\nproduct each", 8)
    d.grid(7.2, 1.4, 6, 6, 0.33, {(2, 3): GREEN})
    d.text(8.2, 4.2, "36 sums over channels\nof an output channel")
    d.arrow((9.35, 2.4), (10.3, 2.4))
    d.text(9.82, 2.8, "$A^T M A$", 8.5)
    d.grid(10.5, 1.75, 4, 4, 0.33, {(i, j): GREEN for i in range(4) for j in range(4)})
    d.text(11.1, 4.2, "4x4 pixels\nof y")
    d.text(
        6,
        0.5,
        "a block: some rows of tiles, transformed within shared memory; "
        "a thread: TILES x STRIPS strips of output channels",
    )


DRAWINGS = {
    "whe": (whe, (9, 3.7)),
    "conv": (conv, (9, 3.7)),
    "depthwise": (depthwise, (9, 3.5)),
    "cross_layer": (cross_layer, (9, 3.5)),
    "contract": (contract, (9, 3.7)),
    "winograd": (winograd, (9, 3.7)),
}
