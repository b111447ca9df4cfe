"""How much faster a distilled model draws than its teacher: one picture at a time, warm, in one run, in turn.

Run: .venv/bin/python bench/few_steps.py ddpm-fashion ddpm-fashion-fast [ROUNDS] (otherwise idle machine)
docs/real-time.md shows the results.
"""

import statistics
import sys
import time

import numpy as np

import zoo


def seconds(model: zoo.Model, steps: int, seed: int) -> float:
    """Of one picture of class 0."""
    began = time.perf_counter()
    model.run("generate", seed=np.array([seed]), steps=np.int64(steps), label=np.array([0]))
    return time.perf_counter() - began


def main(teacher_name: str, student_name: str, rounds: int = 20) -> None:
    teacher, student = zoo.load(teacher_name, "cpu"), zoo.load(student_name, "cpu")
    port = teacher.manifest.tasks["generate"].inputs["steps"]
    many = int(port.default or 1)
    most = int(student.manifest.tasks["generate"].inputs["steps"].maximum or 1)
    calls = [(teacher, many), *((student, steps) for steps in range(1, most + 1))]
    for model, steps in calls:  # opens the graphs
        seconds(model, steps, 0)
    taken = [[seconds(model, steps, round_) for model, steps in calls] for round_ in range(rounds)]
    print("| model | steps | ms a picture | times as fast as the teacher |\n|---|---|---|---|")
    for (model, steps), column in zip(calls, zip(*taken, strict=True), strict=True):
        ratio = statistics.median(first / other for first, other in zip((row[0] for row in taken), column, strict=True))
        print(f"| {model.reference} | {steps} | {1000 * statistics.median(column):.1f} | {ratio:.1f} |")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:4]))
