"""What one request may cost the server."""

from pydantic import Field

from deployments.settings.source import AtLeastOne, Group

MiB = 2**20


class Limits(Group):
    """Bounds of one request; beyond one the answer is 413, unless its line says otherwise."""

    body_bytes: AtLeastOne = Field(
        default=256 * MiB,
        description="Maximum size of a request body, before and after decompression, of a gRPC "
        "message, and of what the pictures of a request decode to. The server holds all of these "
        "in memory. To raise it over gRPC, raise `RAY_SERVE_GRPC_MAX_MESSAGE_SIZE` in "
        "`serve_config.yaml` too.",
    )
    elements: AtLeastOne = Field(
        default=2**28,
        description="Maximum number of elements in one tensor, whatever its datatype.",
    )
    strings: AtLeastOne = Field(
        default=2**20,
        description="Maximum number of elements in one BYTES tensor. Each is an object of its "
        "own, which takes longer to read than a number.",
    )
    rank: AtLeastOne = Field(default=8, description="Maximum number of dimensions of one tensor.")
    image_pixels: AtLeastOne = Field(
        default=64_000_000,
        description="Maximum width times height of a picture and of the size that it is resized "
        "to. The server reads the picture's size from its header before it decodes it. A pixel "
        "takes 3 bytes decoded, 12 as f32.",
    )
    json_depth: AtLeastOne = Field(
        default=16, description="Maximum nesting of lists and objects in JSON."
    )
    json_bytes: AtLeastOne = Field(
        default=16 * MiB,
        description="Maximum size of a request's JSON part, and of the part of a gRPC message "
        "that is not raw tensor data. Parsing JSON blocks the ingress replica for some 20 ms a "
        "MiB and takes several times the JSON's size in memory. Send large tensors by the binary "
        "extension or in `raw_input_contents`, which this does not limit.",
    )
    batch_rows: AtLeastOne = Field(
        default=4096,
        description="Maximum first dimension of one request, its pictures included.",
    )
    inputs: AtLeastOne = Field(
        default=64, description="Maximum number of named tensors in one request."
    )
    queue_length: AtLeastOne = Field(
        default=4096,
        description="Requests that may wait for one model in one ingress replica; further ones "
        "are answered with 503. Longer queues turn overload into latency instead of errors.",
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
        description="Shared memory in which each ingress replica passes tensors to the models "
        "on its node, and each model replica passes its outputs back. Only memory in use is "
        "taken. A body of more than a quarter of it, or one that does not fit into what is free, "
        "is passed in a slower way. Large outputs stay there until clients have read them, up to "
        "a quarter of it in total.",
    )
