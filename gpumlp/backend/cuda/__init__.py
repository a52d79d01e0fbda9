"""The CUDA device: CuPy's arrays, our kernels, cuBLASLt's products, and steps as CUDA graphs.

From the bottom: `launch` starts kernels and says what memory a call touches; `schedule` and
`capture` make a graph of a list of calls; `cublaslt`, `tuning` and `products` are matrix products;
`epilogues` and `copies` rewrite a recorded step so that fewer kernels read and write less;
`backend` is all of it as a `Backend`, and the only module that imports CuPy.
"""

from .backend import CudaBackend

__all__ = ["CudaBackend"]
