"""Bundles for ONNX Runtime on phones, made of ONNX bundles."""
