"""Seeds for graphs that take the noise: callers give `seed`, and the noise is drawn here, in NumPy."""

import noise

SEED = {"codec": "integers", "dtype": "int64", "repeats": True, "sample": "7", "minimum": 0, "maximum": 2**53 - 1}


def take_seeds(tasks):
    """Lets the tasks take a seed instead of their noise. Returns a function from (task, arrays) to the graph's inputs;
    the golden cases, which contain the noise itself, pass unchanged."""
    drawn = {}
    for task, declared in tasks.items():
        if names := [name for name, port in declared["inputs"].items() if "noise" in port]:
            drawn[task] = names[0], declared["inputs"].pop(names[0])
            declared["inputs"]["seed"] = SEED | {"shape": drawn[task][1]["shape"][:1]}

    def with_noise(task, arrays):
        if task not in drawn or "seed" not in arrays:
            return arrays
        (name, port), seed = drawn[task], arrays["seed"]
        given = {n: a for n, a in arrays.items() if n != "seed"}
        return given | {name: noise.DRAW[port["noise"]](seed, port["shape"][1:])}

    return with_noise
