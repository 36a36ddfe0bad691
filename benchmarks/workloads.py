"""The workloads: their requests and order, the number of clients, and the arms."""

from dataclasses import dataclass
from typing import Final

from benchmarks.bodies import Form
from benchmarks.shapes import Shape, new_shapes, zipf_order

DETECTOR: Final = "detector"
DETECTOR_U8: Final = "detector-u8"
TINY: Final = "tiny"
LARGE_OUTPUT: Final = "large-output"

BARE: Final = "bare"
CAREFUL: Final = "careful"
RELOAD: Final = "reload"
MODEL_SERVER: Final = "model-server"
DOCUMENTED: Final = "documented"
ANYSHAPE: Final = "anyshape"
ARMS: Final = (BARE, CAREFUL, RELOAD, MODEL_SERVER, DOCUMENTED, ANYSHAPE)

ZIPF_SHAPES: Final = 50
ZIPF_DRAWS: Final = 20_000
SEVERAL_S: Final = 4


@dataclass(frozen=True)
class Workload:
    """Requests for `model` from `clients` clients at once, to these arms.

    Request i has the shape `shapes[order[i]]`. After the last one the order starts again, unless
    the shapes must be `unseen`: then there must not be more requests than shapes. With
    `own_server` it gets newly started arms, which other workloads have not affected. A turn takes
    `turn_s` seconds. It is longer if an answer may take seconds, because a request that does not
    end within the turn does not count.
    """

    name: str
    model: str
    shapes: tuple[Shape, ...]
    clients: int
    arms: tuple[str, ...]
    form: Form = "FP32"
    order: tuple[int, ...] = (0,)
    own_server: bool = False
    unseen: bool = False
    turn_s: int = 2

    @property
    def server(self) -> str:
        """The key of the server: workloads with the same key share one start of an arm."""
        return self.name if self.own_server else f"{self.model} {self.shapes[0]}"


ONE: Final = ((1, 3, 300, 300),)
TWO: Final = (*ONE, (1, 3, 400, 600))
NEW: Final = tuple(shape for shape in new_shapes() if shape not in ONE)

# `documented` takes one height and width only. `bare` has no clients and decodes no pictures.
# `reload` differs from `careful` only with several shapes, so one workload of one shape has it.
# `model-server` differs from `reload` only if shapes come again.
SERVERS: Final = (CAREFUL, DOCUMENTED, ANYSHAPE)
ANY_SHAPE: Final = (CAREFUL, RELOAD, ANYSHAPE)

CLIENTS: Final = (1, 4, 16, 64)


def _by_clients(name: str, model: str, form: Form, at_16: tuple[str, ...]) -> tuple[Workload, ...]:
    """Workloads of one shape for each number of clients; `at_16` are the arms at 16 clients."""
    return tuple(
        Workload(
            f"{name}, {count} client{'s' * (count > 1)}",
            model,
            ONE,
            count,
            at_16 if count == 16 else SERVERS,
            form,
        )
        for count in CLIENTS
    )


WORKLOADS: Final = (
    *_by_clients("one shape", DETECTOR, "FP32", (BARE, CAREFUL, RELOAD, DOCUMENTED, ANYSHAPE)),
    *_by_clients("JPEG", DETECTOR, "JPEG", SERVERS),
    *_by_clients("u8", DETECTOR_U8, "UINT8", (BARE, *SERVERS)),
    Workload(
        "two shapes alternating, 16 clients",
        DETECTOR,
        TWO,
        16,
        (BARE, MODEL_SERVER, *ANY_SHAPE),
        order=(0, 1),
        own_server=True,
        turn_s=SEVERAL_S,
    ),
    Workload(
        "Zipf over 50 shapes, 16 clients",
        DETECTOR,
        NEW[:ZIPF_SHAPES],
        16,
        ANY_SHAPE,
        order=tuple(zipf_order(ZIPF_SHAPES, ZIPF_DRAWS)),
        own_server=True,
        turn_s=SEVERAL_S,
    ),
    Workload(
        "every request a new shape, 16 clients",
        DETECTOR,
        NEW,
        16,
        ANY_SHAPE,
        order=tuple(range(len(NEW))),
        own_server=True,
        unseen=True,
        turn_s=SEVERAL_S,
    ),
    Workload("tiny model, 64 clients", TINY, ((1, 10),), 64, (BARE, *SERVERS)),
    Workload("4 MB output, 4 clients", LARGE_OUTPUT, ((1, 3, 256, 256),), 4, (BARE, *SERVERS)),
)
ONE_SHAPE: Final = next(w for w in WORKLOADS if w.name == "one shape, 16 clients")
