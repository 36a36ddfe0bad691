"""What one request may cost the server."""

from pydantic import Field

from deployments.settings.source import AtLeastOne, Group

MiB = 2**20


class Limits(Group):
    """What one request may cost; beyond it the answer is 413, unless said otherwise."""

    body_bytes: AtLeastOne = Field(
        default=256 * MiB,
        description="Largest request body, before and after gunzip, or gRPC message, and most "
        "bytes that the pictures of a request may decode to. All of them are held in memory. For "
        "more over gRPC, raise `RAY_SERVE_GRPC_MAX_MESSAGE_SIZE` in `serve_config.yaml` too.",
    )
    elements: AtLeastOne = Field(
        default=2**28,
        description="Largest number of elements in one tensor, whatever its datatype.",
    )
    strings: AtLeastOne = Field(
        default=2**20,
        description="Largest number of elements in one BYTES tensor. Each is an object of its own, "
        "which takes longer to read than a number.",
    )
    rank: AtLeastOne = Field(default=8, description="Largest number of dimensions of one tensor.")
    image_pixels: AtLeastOne = Field(
        default=64_000_000,
        description="Largest width times height of a picture, read from its header before it is "
        "decoded, and of the size that it is resized to. A pixel takes 3 bytes decoded, 12 as f32.",
    )
    json_depth: AtLeastOne = Field(
        default=16, description="Deepest nesting of lists and objects in JSON."
    )
    json_bytes: AtLeastOne = Field(
        default=16 * MiB,
        description="Largest JSON part of a request, and most of a gRPC message that is not raw "
        "tensor data. Parsing JSON holds up everything else in the ingress replica for some 20 ms "
        "a MiB and takes several times its size in memory, so send large tensors by the binary "
        "extension or in `raw_input_contents`, which this does not bound.",
    )
    batch_rows: AtLeastOne = Field(
        default=4096,
        description="Largest first dimension of one request, the pictures in it included.",
    )
    inputs: AtLeastOne = Field(default=64, description="Most named tensors in one request.")
    queue_length: AtLeastOne = Field(
        default=4096,
        description="Requests that may wait for one model in one ingress replica; further ones are "
        "answered with 503. Longer queues turn overload into latency instead of errors.",
    )
    timeout_s: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds after which a request is answered with 504. A request may ask for "
        "less, not for more.",
    )
    shared_memory_bytes: AtLeastOne = Field(
        default=512 * MiB,
        description="Shared memory in which each ingress replica hands tensors to the models on "
        "its node, and each model replica its outputs back. Only what is in use takes memory; a "
        "body of more than a quarter of it, or one that finds it full, crosses in a slower way. "
        "Large outputs stay there until clients have read them, as long as those are a quarter of "
        "it.",
    )
