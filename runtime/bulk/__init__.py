"""Many inputs: a class for batch engines (Ray Data, Spark, datasets, Dask), and whole folders to a file, restartable."""
