"""Find faces in a folder of pictures: send them to the server, draw the boxes, save the pictures.

    python examples/detect_faces.py --input-dir pictures --output-dir found

Works with any model that maps FP32 [N,C,H,W] (BGR, 0..255) to DetectionOutput, such as `spots`.
Exit code 0: all done; 1: the server failed or pictures were skipped; 2: wrong command line.
"""

import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import urlsplit

try:
    import cv2
    import gevent.pool
    import numpy as np
    from numpy.typing import NDArray
    from tqdm import tqdm
    from tritonclient.http import InferenceServerClient as Client
    from tritonclient.http import InferInput, InferRequestedOutput
    from tritonclient.utils import InferenceServerException
except ImportError as missing:
    sys.exit(f"error: {missing}; run: pip install 'anyshape[examples]'")

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png"}
COLOUR = (80, 220, 60)
FONT = cv2.FONT_HERSHEY_SIMPLEX
Image = NDArray[np.uint8]  # [height,width,3], BGR
Tensor = NDArray[np.float32]
Detection = tuple[float, ...]  # confidence, x_min, y_min, x_max, y_max; relative to the picture


class ClientError(Exception):
    """Raised when the run cannot go on; the user sees its text, one line."""


class Picture(NamedTuple):
    path: Path
    original: Image
    sent: Image  # resized for the model


class Answer(NamedTuple):
    batch: list[Picture]
    found: list[list[Detection]]
    latency_ms: float

    def line(self) -> str:
        names = " ".join(picture.path.name for picture in self.batch)
        height, width, channels = self.batch[0].sent.shape
        shape, boxes = [len(self.batch), channels, height, width], sum(map(len, self.found))
        return f"{names}  {shape}  {self.latency_ms:.1f} ms  {boxes} boxes"


def read_picture(path: Path, size: tuple[int, int] | None) -> Picture | None:
    """Reads a picture and resizes it to `size` (width, height). Reports an unreadable one: None."""
    with suppress(cv2.error):  # for example too many pixels for OpenCV
        if (image := cv2.imread(str(path), cv2.IMREAD_COLOR)) is not None:
            sent = cv2.resize(image, size) if size else image
            return Picture(path, np.asarray(image, np.uint8), np.asarray(sent, np.uint8))
    tqdm.write(f"skipped {path.name}: not a readable picture", file=sys.stderr)
    return None


def batches(pictures: Iterable[Picture], rows: int) -> Iterator[list[Picture]]:
    """Groups of up to `rows` pictures of equal size."""
    groups: dict[tuple[int, ...], list[Picture]] = {}
    for picture in pictures:
        group = groups.setdefault(picture.sent.shape, [])
        group.append(picture)
        if len(group) == rows:
            yield groups.pop(picture.sent.shape)
        elif sum(map(len, groups.values())) >= max(rows, 64):  # bounds the memory
            yield groups.pop(next(iter(groups)))
    yield from groups.values()


def parse_detections(output: Tensor, pictures: int, threshold: float) -> list[list[Detection]]:
    """The detections of each picture, from `output` [1,1,rows,7]. ValueError for an unknown id."""
    found: list[list[Detection]] = [[] for _ in range(pictures)]
    for image_id, _label, confidence, *box in np.reshape(output, (-1, 7)).tolist():
        if image_id < 0:
            break
        if image_id >= pictures:
            raise ValueError(f"detection in picture {image_id:g} of a batch of {pictures}")
        if confidence >= threshold:
            found[int(image_id)].append((confidence, *box))
    return found


def label_patch(text: str, height: int, width: int) -> Image:
    """Draws the text on a coloured ground, in proportion to a picture, and never larger than it."""
    pixels = max(10, min(height, width) // 40)
    thickness = max(1, pixels // 10)
    pad = thickness + 2
    scale = cv2.getFontScaleFromHeight(FONT, pixels, thickness)
    (across, up), down = cv2.getTextSize(text, FONT, scale, thickness)
    patch = np.full((up + down + 2 * pad, across + 2 * pad, 3), COLOUR, np.uint8)
    cv2.putText(patch, text, (pad, pad + up), FONT, scale, (0, 0, 0), thickness, cv2.LINE_AA)
    fitting = min(patch.shape[1], width), min(patch.shape[0], height)
    return np.asarray(cv2.resize(patch, fitting), np.uint8)


def draw_boxes(image: Image, detections: Iterable[Detection]) -> Image:
    """Draws a box and the confidence for each detection on a copy, the most confident last."""
    drawn = image.copy()
    height, width = image.shape[:2]
    line = max(1, min(height, width) // 300)
    for confidence, *box in sorted(detections):
        ends = np.clip(box, 0, 1) * ([width - 1, height - 1] * 2)
        left, top, right, bottom = (int(end) for end in ends.round())
        cv2.rectangle(drawn, (left, top), (right, bottom), COLOUR, line)
        patch = label_patch(f"{confidence:.2f}", height, width)
        x = min(left, width - patch.shape[1])
        y = min(max(top - patch.shape[0], 0), height - patch.shape[0])
        drawn[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    return drawn


def save(answer: Answer, folder: Path) -> None:
    for picture, found in zip(answer.batch, answer.found, strict=True):
        if not cv2.imwrite(str(folder / picture.path.name), draw_boxes(picture.original, found)):
            raise ClientError(f"cannot write {folder / picture.path.name}")


def percentile_line(latencies_ms: Sequence[float]) -> str:
    parts = [f"p{rank} {np.percentile(latencies_ms, rank):.1f}" for rank in (50, 90, 95, 99)]
    return f"latency ms: mean {np.mean(latencies_ms):.1f}  {'  '.join(parts)}"


@contextmanager
def plain_errors(subject: str, url: str) -> Iterator[None]:
    """Turns the errors of a request into a ClientError of one line."""
    try:
        yield
    except InferenceServerException as failure:
        why = " ".join(failure.message().split())[:500]
        raise ClientError(f"{subject}: HTTP {failure.status()}: {why}") from failure
    except (OSError, HTTPException, KeyError, ValueError) as failure:
        raise ClientError(f"{subject}: no KServe v2 answer from {url}: {failure}") from failure


def detector_ports(metadata: dict[str, Any]) -> list[str]:
    """The names of the only 4-D input and of the only output with rows of 7 values."""
    inputs = [port["name"] for port in metadata["inputs"] if len(port["shape"]) == 4]
    outputs = [port["name"] for port in metadata["outputs"] if port["shape"][-1:] == [7]]
    if len(inputs) != 1 or len(outputs) != 1:
        raise ClientError(f"{metadata['name']} is no detector: one 4-D input, one output [...,7]")
    return inputs + outputs


def infer(client: Client, options: Namespace, ports: list[str], batch: list[Picture]) -> Answer:
    tensor = np.stack([picture.sent.transpose(2, 0, 1) for picture in batch], dtype=np.float32)
    data = InferInput(ports[0], list(tensor.shape), "FP32").set_data_from_numpy(tensor)
    wanted = [InferRequestedOutput(ports[1])]
    with plain_errors(" ".join(picture.path.name for picture in batch), options.url):
        started = perf_counter()
        result = client.infer(options.model, [data], options.model_version, wanted)
        latency_ms = (perf_counter() - started) * 1000
        found = parse_detections(result.as_numpy(ports[1]), len(batch), options.threshold)
    return Answer(batch, found, latency_ms)


def run(client: Client, options: Namespace) -> int:
    with plain_errors(f"model '{options.model}'", options.url):
        ports = detector_ports(client.get_model_metadata(options.model, options.model_version))
    hub, workers = gevent.get_hub(), gevent.pool.Pool(options.concurrency)
    hub.NOT_ERROR += (ClientError, KeyboardInterrupt)  # gevent prints tracebacks of other errors
    # On gevent's own thread, work on pictures would count as latency of the requests in flight.
    size = (options.width, options.height) if options.width else None
    pictures = (hub.threadpool.apply(read_picture, (path, size)) for path in options.pictures)
    waiting = batches(filter(None, pictures), options.batch_size)
    # Not `async_infer`, which sleeps 10 ms per call and prints a traceback if the server is gone.
    send = partial(infer, client, options, ports)
    answers = workers.imap_unordered(send, waiting, maxsize=2 * options.concurrency)
    done, latencies_ms, started = 0, [], perf_counter()
    try:
        with tqdm(total=len(options.pictures), unit="picture", disable=None) as progress:
            for answer in answers:
                hub.threadpool.apply(save, (answer, options.output_dir))
                tqdm.write(answer.line())
                progress.update(len(answer.batch))
                latencies_ms.append(answer.latency_ms)
                done += len(answer.batch)
    finally:
        gevent.killall([answers, *workers])
        hub.threadpool.join()  # if Python ends while a thread runs OpenCV, the process aborts
    if done:
        print(f"{done / (perf_counter() - started):.1f} pictures/s, reading and drawing included")
        print(percentile_line(latencies_ms))
    return 0 if done == len(options.pictures) else 1


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def arguments(argv: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser(usage=SUPPRESS, description="Draw boxes around the faces in pictures.")
    add = parser.add_argument
    add("--input-dir", type=Path, required=True, help="folder of jpeg, png and bmp pictures")
    add("--output-dir", type=Path, required=True, help="folder for the drawn pictures")
    add("--width", type=positive, help="resize pictures to this width (default: no resizing)")
    add("--height", type=positive, help="and to this height")
    add("--batch-size", type=positive, default=1, help="pictures per request (%(default)s)")
    add("--concurrency", type=positive, default=1, help="requests in flight (%(default)s)")
    add("--url", default="http://localhost:8000", help="URL of the server (%(default)s)")
    add("--model", default="face-detection", help="name of the model (%(default)s)")
    add("--model-version", default="", help="version of the model (default: the server's choice)")
    add("--threshold", type=float, default=0.5, help="least confidence (%(default)s)")
    options = parser.parse_args(argv)
    if (options.width is None) != (options.height is None):
        parser.error("--width and --height go together")
    try:
        if not options.url.startswith(("http://", "https://")) or urlsplit(options.url).port == 0:
            raise ValueError(f"--url {options.url} is not like http://host:port")
        files = sorted(options.input_dir.iterdir())
        options.output_dir.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as failure:
        parser.error(str(failure))
    options.pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not options.pictures:
        parser.error(f"no {', '.join(sorted(SUFFIXES))} in {options.input_dir}")
    if options.output_dir.samefile(options.input_dir):
        parser.error("--output-dir is --input-dir: the pictures would be overwritten")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    scheme, address = options.url.split("://", 1)
    try:
        with Client(address, concurrency=options.concurrency, ssl=scheme == "https") as client:
            return run(client, options)
    except (ClientError, KeyboardInterrupt) as failure:
        print(f"error: {str(failure) or 'interrupted'}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
