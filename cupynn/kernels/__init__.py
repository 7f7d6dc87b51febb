"""Kernels: `NAME.cu` beside `NAME.py`. Arrays in, arrays out; no tensors, no bookkeeping of gradients.

Each `NAME.py` holds the face (`forward`, `backward`), the same function in a few lines of array code
(`reference_forward`, `reference_backward`) and what it must cost (`cost`).
"""
