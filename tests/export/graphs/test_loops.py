"""A loop that only a computed condition ends is known; one with a limit of rounds is not taken for it."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

from onnxferry.export.graphs.loops import may_not_end

GRAPH = """
<ir_version: 10, opset_import: ["": 18]>
g (float[n] x) => (float[n] y)
<int64 most = {{{most}}}, bool yes = {{1}}, float one = {{1}}>
{{
  y = Loop ({rounds}, yes, x) <body = b (int64 i, bool go_on, float[n] a) => (bool more, float[n] half)
  {{
    half = Mul (a, one)
    largest = ReduceMax <keepdims = 0> (half)
    {condition}
  }}>
}}
"""


@pytest.mark.parametrize(
    ("rounds", "most", "condition", "expected"),
    [
        ("", 1, "more = Greater (largest, one)", True),
        ("most", 2**63 - 1, "more = Greater (largest, one)", True),
        ("most", 50, "more = Greater (largest, one)", False),
        ("most", 2**63 - 1, "more = Identity (go_on)", False),
        ("", 1, "more = Identity (yes)", False),
    ],
)
def test_loops(rounds: str, most: int, condition: str, expected: bool) -> None:
    model = parser.parse_model(GRAPH.format(rounds="most", most=most, condition=condition))
    if not rounds:
        model.graph.node[0].input[0] = ""
    onnx.checker.check_model(model)
    assert may_not_end(model) is expected
