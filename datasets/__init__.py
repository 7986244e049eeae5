"""Image sets, patches and blur kernels. Knows nothing of the program that trains on them."""
