"""Blocks that several families of networks are built from."""
