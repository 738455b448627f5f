# For type checkers, of the package onnxferry as a whole. Nothing is imported at run time: __init__.py beside this file is lazy.
from onnxferry import demo as demo
from onnxferry import export as export
from onnxferry import runtime as runtime
from onnxferry import train as train
from onnxferry.export import *
from onnxferry.runtime import *
