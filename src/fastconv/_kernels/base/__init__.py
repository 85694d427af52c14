"""The kernels as the compiler builds them by default: any processor of the kind runs them."""
