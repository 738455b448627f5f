from onnxferry import demo as demo
from onnxferry import export as export
from onnxferry import runtime as runtime
from onnxferry import train as train
from onnxferry.export import *
from onnxferry.runtime import *
