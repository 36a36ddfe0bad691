"""Arm a, the limit: OpenVINO in a process of its own, asynchronous infer requests, no server.

Every shape has a static compilation. Requests alternate between the shapes, and as many are in
flight as keep the streams busy. Each input line is the number of seconds to measure, each output
line the result.
"""

import argparse
import json
import sys
import threading
import time
from math import prod
from typing import Any

import openvino as ov
import psutil

from benchmarks.bodies import pixels
from benchmarks.compiling import properties

WARM_UP_S = 0.3


def lanes(path: str, shapes: list[list[int]]) -> list[list[Any]]:
    """Makes two infer requests per stream for every shape, with their inputs set."""
    core, model = ov.Core(), ov.Core().read_model(path)
    found = []
    for shape in shapes:
        reshaped = model.clone()
        reshaped.reshape(shape)
        compiled = core.compile_model(reshaped, "CPU", properties())
        count = 2 * int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        data = pixels(prod(shape), compiled.input(0).element_type.to_dtype()).reshape(shape)
        lane = [compiled.create_infer_request() for _ in range(count)]
        for request in lane:
            request.set_input_tensor(0, ov.Tensor(data, shared_memory=True))
        found.append(lane)
    return found


def measured(lanes: list[list[Any]], seconds: float) -> dict[str, float]:
    """Measures inferences for `seconds`, after a short warm-up."""
    done = [0] * min(map(len, lanes))
    end = threading.Event()

    def work(worker: int) -> None:
        turn = worker
        while not end.is_set():
            request = lanes[turn % len(lanes)][worker]
            request.start_async()
            request.wait()
            done[worker] += 1
            turn += 1

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(len(done))]
    for thread in threads:
        thread.start()
    time.sleep(WARM_UP_S)
    before, cpu, started = sum(done), time.process_time(), time.perf_counter()
    time.sleep(seconds)
    inferences = sum(done) - before
    cpu_s, took_s = time.process_time() - cpu, time.perf_counter() - started
    end.set()
    for thread in threads:
        thread.join()
    return {
        "requests_per_s": inferences / took_s,
        "cpu_ms_per_request": 1e3 * cpu_s / max(1, inferences),
        "resident_mb": psutil.Process().memory_info().rss / 1e6,
        "errors": 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--shapes", type=json.loads, required=True)
    arguments = parser.parse_args()
    compiled = lanes(arguments.model, arguments.shapes)
    for line in sys.stdin:
        print(json.dumps(measured(compiled, float(line))), flush=True)


if __name__ == "__main__":
    main()
