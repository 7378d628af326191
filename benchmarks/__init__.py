"""Side-by-side timings of the gradient kernels; see README.md.  Not part of the package."""
