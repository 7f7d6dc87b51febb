"""Networks for other programs: ONNX files."""

from cupynn.export.onnx_file import Export, export_onnx

__all__ = ["Export", "export_onnx"]
