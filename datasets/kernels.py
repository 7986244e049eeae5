"""The name of `blur_kernels` in version 0.1.0, which scripts of users import."""

from datasets.blur_kernels import gaussian_kernel, read_kernel

__all__ = ["gaussian_kernel", "read_kernel"]
