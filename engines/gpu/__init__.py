"""Encoders on an NVIDIA GPU: TensorRT for the graph, PyCUDA for what stands before it. Importing the package loads
neither, so that a machine without a GPU pays nothing."""
