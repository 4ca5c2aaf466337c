"""Training of the demo's encoders: render, fit, export, measure. PyTorch is needed by `fit` alone."""
