"""Moves weights into the loops that use them, where ONNX Runtime needs them."""

import onnx

from ..graph.walk import names_used, subgraphs


def move_into_bodies(graph: onnx.GraphProto) -> None:
    """Moves each initializer that only one body uses into that body, as deep as possible.

    ONNX Runtime only pre-packs and re-orders the initializers of the graph that uses them: a sampler whose weights are
    outside its `Loop` runs 25 % slower.
    """
    bodies = [body for node in graph.node for body in subgraphs(node)]
    used_here = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    used_in = [names_used(body) for body in bodies]
    stays = []
    for tensor in graph.initializer:
        users = [body for body, used in zip(bodies, used_in, strict=True) if tensor.name in used]
        if tensor.name not in used_here and len(users) == 1:
            users[0].initializer.append(tensor)
        else:
            stays.append(tensor)
    if len(stays) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(stays)
    for body in bodies:
        move_into_bodies(body)
