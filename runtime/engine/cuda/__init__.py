"""What only a GPU needs: CUDA graphs, DLPack, page-locked memory. Not yet run on a GPU."""
