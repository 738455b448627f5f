"""The default number of threads for a model.

Recurrent graphs are chains of small matrix products: the threads of a pool wait for each other at every step, and below some size that
costs more than the second thread gains. Two layers, one sequence, one step and 64 steps, time with one thread over time with two
(below 1: one thread is faster; two-core EPYC, ONNX Runtime 1.31.1, spinning stopped after runs):

    ======  =====  ========  ========  ========
    cell    width  weights   1 step    64 steps
    ======  =====  ========  ========  ========
    LSTM    64     0.3 MB    1.09      0.91
    LSTM    128    1.0 MB    0.72      1.17
    LSTM    256    3.7 MB    1.00      1.65
    LSTM    512    13.6 MB   1.43      1.68
    GRU     64     0.3 MB    1.00      0.76
    GRU     128    0.8 MB    1.00      0.89
    GRU     256    2.8 MB    0.74      0.84
    GRU     384    6.0 MB    0.91      1.24
    ======  =====  ========  ========  ========

So an LSTM of up to 1 MiB and a GRU of up to 3 MiB get one thread, which also leaves the other CPUs to the rest of the program. Large
batches (16 sequences of 64 steps: 1.8 for the LSTM) run faster with more: set ``threads=``, or tune.
"""

from __future__ import annotations

from onnxferry.runtime.machine import cpu
from onnxferry.runtime.onnx_file.summary import ModelSummary

_LSTMS = ("ai.onnx::LSTM", "com.microsoft::DynamicQuantizeLSTM")


_GRUS = ("ai.onnx::GRU", "ai.onnx::RNN")


_WIDE_OPERATORS = ("ai.onnx::Conv", "ai.onnx::ConvTranspose", "ai.onnx::QLinearConv", "com.microsoft::FusedConv")
"""Worth sharing between threads however small the weights are, because these are used often."""


TINY_LSTM_BYTES = 2**20


TINY_GRU_BYTES = 3 * 2**20


def threads_for(summary: ModelSummary) -> int:
    """One for a tiny recurrent model, else :func:`cpu.default_threads`."""
    operators = summary.operators
    if not any(name in operators for name in _WIDE_OPERATORS):
        weights = sum(each.nbytes for each in summary.initializers)
        lstm = any(name in operators for name in _LSTMS)
        gru = any(name in operators for name in _GRUS)
        if (lstm or gru) and weights <= (TINY_LSTM_BYTES if lstm else TINY_GRU_BYTES):
            return 1
    return cpu.default_threads()
