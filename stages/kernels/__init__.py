"""Hot loops over Arrow buffers: numpy and numba only, compiled when first called, cached on disk."""
