"""A sampler's loop outside of its graphs, in NumPy: a page to translate into your own language.

    x, previous_x0, plan = begin(seed or noise, steps)
    for index, row in the rows of plan, up to the first that is all zeros:
        x, previous_x0 = step(x, previous_x0, row, [seed, index,] label, guidance, ...)
    image = end(x)

A row holds the numbers of one step; a host passes it on and needs no formula. Ports have the same names everywhere, so
each graph gets those of the caller's inputs that it takes. A task without `end` gives x itself, its latents.
"""

import numpy as np

BEGIN, STEP, END = "begin", "step", "end"


def samplers(tasks):
    """The tasks whose parts `<task>_begin` and `<task>_step` are there, as ports like those of other tasks."""
    found = {}
    for name in tasks:
        whole, _, part = name.rpartition("_")
        if part == BEGIN and f"{whole}_{STEP}" in tasks:
            begin, step = tasks[name], tasks[f"{whole}_{STEP}"]
            made = {*begin["outputs"], "row", "index"}
            inputs = begin["inputs"] | {n: port for n, port in step["inputs"].items() if n not in made}
            last = tasks.get(f"{whole}_{END}")
            outputs = last["outputs"] if last else {"x": begin["outputs"]["x"]}
            found[whole] = {"summary": step["summary"], "inputs": inputs, "outputs": outputs}
    return found


def sample(tasks, call, whole, inputs):
    """The outputs of a sampler.

    Args:
        tasks: the model's tasks, as in model.json.
        call: from a task's name and its inputs by name to its outputs by name.
        whole: the sampler, `generate`.
        inputs: arrays by name: what `begin` and `step` take, without what they give each other.
    """

    def run(part, arrays):
        name = f"{whole}_{part}"
        return call(name, {port: arrays[port] for port in tasks[name]["inputs"]})

    state = run(BEGIN, inputs)
    plan, x, previous_x0 = state["plan"], state["x"], state["previous_x0"]
    for index, row in enumerate(plan):
        if not row.any():
            break
        given = state | inputs | {"x": x, "previous_x0": previous_x0, "row": row, "index": np.asarray(index)}
        results = run(STEP, given)
        x, previous_x0 = results["next_x"], results["x0"]
    return run(END, {"x": x}) if f"{whole}_{END}" in tasks else {"x": x}
