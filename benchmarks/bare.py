"""Arm a, the limit: OpenVINO in a process of its own, asynchronous infer requests, no server.

Every shape has its own static compilation; requests take turns through the shapes and through
one queue of as many infer requests as the streams keep busy.
"""

import argparse
import json
import threading
import time
from typing import Any

import numpy as np
import openvino as ov


def throughput(path: str, shapes: list[list[int]], seconds: float) -> float:
    """Inferences per second over `seconds`, after a second of warming up."""
    core, model = ov.Core(), ov.Core().read_model(path)
    lanes: list[list[Any]] = []
    count = 0
    for shape in shapes:
        reshaped = model.clone()
        reshaped.reshape(shape)
        compiled = core.compile_model(reshaped, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
        count = 2 * int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        data = np.random.default_rng(0).random(shape, np.float32) * 255
        lane = [compiled.create_infer_request() for _ in range(count)]
        for request in lane:
            request.set_input_tensor(0, ov.Tensor(data, shared_memory=True))
        lanes.append(lane)
    done = [0] * count
    end = threading.Event()

    def work(worker: int) -> None:
        turn = worker
        while not end.is_set():
            request = lanes[turn % len(lanes)][worker]
            request.start_async()
            request.wait()
            done[worker] += 1
            turn += 1

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(count)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    before, started = sum(done), time.perf_counter()
    time.sleep(seconds)
    rate = (sum(done) - before) / (time.perf_counter() - started)
    end.set()
    for thread in threads:
        thread.join()
    return rate


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--shapes", type=json.loads, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    print(throughput(arguments.model, arguments.shapes, arguments.seconds))


if __name__ == "__main__":
    main()
