"""The lowerings, by what they compute. Importing this package registers all of them."""

from onnxferry.export.sources.jax.lowerings import (
    contractions as contractions,
)
from onnxferry.export.sources.jax.lowerings import (
    control as control,
)
from onnxferry.export.sources.jax.lowerings import (
    elementwise as elementwise,
)
from onnxferry.export.sources.jax.lowerings import (
    indexing as indexing,
)
from onnxferry.export.sources.jax.lowerings import (
    layout as layout,
)
from onnxferry.export.sources.jax.lowerings import (
    ordering as ordering,
)
from onnxferry.export.sources.jax.lowerings import (
    reductions as reductions,
)
from onnxferry.export.sources.jax.lowerings import (
    special as special,
)
from onnxferry.export.sources.jax.lowerings import (
    spectral as spectral,
)
from onnxferry.export.sources.jax.lowerings import (
    windows as windows,
)
