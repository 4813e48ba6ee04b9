"""From a network's function to a recorded graph, and from the graph to the operations of an emitter.

`interfaces` says what each package computes, `graph` records it, and `split` cuts a graph in two. `lower` walks a graph
with the rules of `operations`, `attention` and `primitives`. `layout` says how tensors are stored. Nothing here imports
coremltools: an emitter is handed in (`coreml.mil.emitter`).
"""
