"""Special values: inputs on which faults of converters and kernels show, and the comparison of source and file on them."""
