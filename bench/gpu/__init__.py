"""`python -m bench gpu`: see `bench.gpu.command`. Nothing is imported here, so that `bench.gpu.found` runs anywhere."""

from __future__ import annotations


def main(arguments: list[str]) -> None:
    from bench.gpu.command import main

    main(arguments)
