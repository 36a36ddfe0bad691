import re
from typing import Any

import pytest
from fsspec import available_protocols
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments.dimensions import Dim
from deployments.settings.batching import Batching
from deployments.settings.model import ModelSettings
from deployments.settings.preprocessing import ColorFormat, Precision, Preprocessing
from deployments.settings.source import RemoteFile

SHA384 = "0123456789ABCDEF" * 6
FILES = [
    {"url": "https://example.org/a/model.xml", "sha384": SHA384},
    {"url": "https://example.org/a/model.bin?download=1", "sha384": SHA384},
]


def model(**changes: Any) -> ModelSettings:
    return ModelSettings.model_validate({"name": "m", "source": "builtin:spots", **changes})


def refusal(**changes: Any) -> str:
    with pytest.raises(ValidationError) as raised:
        model(**changes)
    (detail,) = raised.value.errors()
    return str(detail["msg"]).removeprefix("Value error, ")


# Names ------------------------------------------------------------------------------------------


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True))
def test_a_name_may_have_letters_digits_and_some_marks(name: str) -> None:
    assert name == model(name=name).name


@pytest.mark.parametrize("name", ["", "-m", ".m", "a b", "a/b", "ä", "m\n", "m" * 65])
def test_other_names_are_refused(name: str) -> None:
    assert refusal(name=name) == (
        f"{name!r} must be 1 to 64 letters, digits, '_', '.' or '-', "
        "the first one a letter or digit"
    )


def test_the_name_of_the_ingress_is_taken() -> None:
    assert refusal(name="Ingress") == "'Ingress' is the name of the deployment in front of models"


# Sources ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["builtin:spots", "face-detection", "/opt/m/model.onnx", "a b"])
def test_a_source_may_be_built_in_or_a_path(source: str) -> None:
    assert source == model(source=source).source


def test_a_source_may_be_remote_files() -> None:
    source = model(source=FILES).source
    assert isinstance(source, list)
    assert [file.file_name for file in source] == ["model.xml", "model.bin"]
    assert {file.sha384 for file in source} == {SHA384.lower()}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("builtin:faces", "'builtin:faces' is not built in, known: 'builtin:spots'"),
        (
            "https://example.org/model.xml",
            (
                "'https://example.org/model.xml' must be a list of files, "
                "each with its url and sha384"
            ),
        ),
        (
            "https://user:hush@example.org/m?signature=hush",
            "'https://example.org/m' must be a list of files, each with its url and sha384",
        ),
        ("gss://bucket/m", "'gss://' cannot be read, did you mean 'gs'?"),
        *(
            (
                url,
                (
                    "the URL after 's3://' may have no password and no query: put "
                    "credentials into the environment, and other options into storage_options"
                ),
            )
            for url in ("s3://key:hush@bucket/m", "s3://bucket/m?hush", "s3://:@bucket/m")
        ),
        ("s3://[/m", "the URL after 's3://' cannot be read"),
        ("s3://", "'s3://' is not the URL of a directory"),
        ("s3://b/m::s3://b/n", "'s3://b/m::s3://b/n' is not the URL of a directory"),
        ("s3://b/m n", "'s3://b/m n' is not the URL of a directory"),
        (" ", "' ' is not a path"),
        ("a\0b", "'a\\x00b' is not a path"),
        ([], "lists no file"),
        ([FILES[0], FILES[0]], "has 2 files named 'model.xml', one would replace another"),
    ],
)
def test_a_source_that_cannot_be_had_is_refused(source: object, reason: str) -> None:
    assert reason == refusal(source=source)


@pytest.mark.parametrize(
    "source",
    [
        "s3://b/m",
        "gs://b",
        "az://c/m",
        "abfs://c@account.dfs.example.org/m",
        "file:///srv/models/m",
    ],
)
def test_a_source_may_be_a_directory_in_a_store(source: str) -> None:
    options = {"endpoint_url": "http://localhost:9000", "anon": True, "config_kwargs": {"a": [1]}}
    settings = model(source=source, storage_options=options)
    assert settings.remote
    assert options == settings.storage_options


@pytest.mark.parametrize("source", ["builtin:spots", "m", FILES])
def test_only_a_store_has_options(source: object) -> None:
    assert not model(source=source).remote
    reason = "has storage_options, which need a source that is a URL such as 's3://bucket/dir'"
    assert reason == refusal(source=source, storage_options={"anon": True})


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789+.-", min_size=1, max_size=12))
def test_a_scheme_that_fsspec_does_not_know_is_refused_with_what_it_knows(scheme: str) -> None:
    assume(scheme not in available_protocols())
    reason = refusal(source=f"{scheme}://bucket/m")
    assert reason.startswith(f"'{scheme}://' cannot be read, ")
    known = set(available_protocols()) - {"http", "https"}
    assert re.findall(r"[\w+.-]+", reason.partition(", ")[2])[-1] in known


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.org/model.xml", "model.xml"),
        ("https://example.org:8443/a%20b.xml?x=/y#z", "a b.xml"),
        ("http://localhost:9000/model.onnx", "model.onnx"),
        ("http://127.0.0.1/model.onnx", "model.onnx"),
    ],
)
def test_a_remote_file_keeps_the_last_part_of_its_url(url: str, expected: str) -> None:
    assert expected == RemoteFile(url=url, sha384=SHA384).file_name


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.org/m.xml", "must use https, plain http is for localhost only"),
        ("http://localhost.example.org/m.xml", "must use https, plain http is for localhost"),
        ("http://localhost@example.org/m.xml", "must use https, plain http is for localhost"),
        ("ftp://example.org/m.xml", "is not a URL that starts with https://"),
        ("file:///m.xml", "is not a URL that starts with https://"),
        ("https:///m.xml", "is not a URL that starts with https://"),
        ("m.xml", "is not a URL that starts with https://"),
        ("https://[/m.xml", "is not a URL"),
        ("https://example.org/a\n.xml", "has blanks or control characters"),
        ("https://example.org", "does not end in a file name"),
        ("https://example.org/a/", "does not end in a file name"),
        ("https://example.org/a/..", "does not end in a file name"),
        ("https://example.org/a/%2e%2E", "does not end in a file name"),
        ("https://example.org/a%5Cb.xml", "does not end in a file name"),
        ("https://example.org/a%00b.xml", "does not end in a file name"),
    ],
)
def test_a_url_that_must_not_or_cannot_be_fetched_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(f"{url!r} {reason}")):
        RemoteFile(url=url, sha384=SHA384)


@given(st.text("ab./\\%2eE5CFf0", max_size=20))
def test_no_url_makes_a_file_outside_of_its_directory(path: str) -> None:
    try:
        file = RemoteFile(url=f"https://example.org/{path}", sha384=SHA384)
    except ValidationError:
        return
    assert file.file_name
    assert not file.file_name.startswith(".")
    assert not set(file.file_name) & set("/\\\0")


@pytest.mark.parametrize("digest", ["", "0" * 95, "0" * 97, "g" * 96, "0" * 95 + "\n"])
def test_a_sum_that_is_no_sha384_is_refused(digest: str) -> None:
    with pytest.raises(ValidationError, match=f"96 hexadecimal digits, has {len(digest)} char"):
        RemoteFile(url="https://example.org/m.xml", sha384=digest)


# Shapes -----------------------------------------------------------------------------------------


def test_shapes_are_read() -> None:
    assert model().shape_rules == "auto"
    assert model(shape="(1,-1)").shape_rules == (Dim(1, 1), Dim(0, None))
    assert model(shape={"a": "auto", "b": "(2:3)"}).shape_rules == {"a": "auto", "b": (Dim(2, 3),)}


def test_warm_up_shapes_are_read() -> None:
    warm_up = ["(1,3)", {"a": "(1,3)", "b": "()"}]
    assert model(warm_up=warm_up).warm_up_shapes == [(1, 3), {"a": (1, 3), "b": ()}]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shape": "1,3"}, "'1,3' is not a shape: write 'auto' or '(1,3,300,300)'"),
        (
            {"shape": {"a": "(5:1)"}},
            "input 'a': '(5:1)' has the range 5:1, its end must be above",
        ),
        ({"shape": {}}, "names no input"),
        ({"warm_up": ["(1,-1)"]}, "'(1,-1)' leaves a dimension open (-1), it must be one shape"),
        ({"warm_up": ["auto"]}, "'auto' is not a shape"),
        ({"warm_up": [{"a": "(2:3)"}]}, "input 'a': '(2:3)' leaves a dimension open (2:3)"),
        ({"warm_up": [{}]}, "names no input"),
        ({"device": " "}, "is empty"),
    ],
)
def test_what_cannot_be_read_is_refused(changes: dict[str, Any], reason: str) -> None:
    assert refusal(**changes).startswith(reason)


# Preprocessing ----------------------------------------------------------------------------------


def test_preprocessing_is_read() -> None:
    settings = model(
        layout={"x": "NHWC:NCHW", "y": "CN:NC"},
        precision="uint8:fp32",
        color_format={"x": "BGR:RGB"},
        resize="linear",
        mean="[123.675,116.28,103.53]",
        scale={"x": [58.395, 57.12, 57.375], "z": 2},
    ).preprocessing
    assert Precision("UINT8", "FP32") == settings.precision
    assert {"x": ColorFormat("BGR", "RGB")} == settings.color_format
    assert "linear" == settings.resize
    assert (123.675, 116.28, 103.53) == settings.mean
    assert {"x": (58.395, 57.12, 57.375), "z": 2.0} == settings.scale
    for name, expected in (("x", "NHWC"), ("y", "CN")):
        rule = settings.layout_of(name)
        assert rule is not None
        assert expected == str(rule.target)


def test_without_settings_nothing_is_preprocessed() -> None:
    assert Preprocessing() == model().preprocessing


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layout": "NHWC:NCH"}, "'NHWC:NCH' has NHWC before the colon and NCH after it"),
        ({"layout": {"x": "NN"}}, "'x': 'NN' has N twice in one layout"),
        ({"precision": "float"}, "'float' is not a precision, known: uint8, "),
        ({"precision": {"x": "u8"}}, "'x': 'u8' is not a precision, known: uint8, "),
        ({"color_format": "RGB"}, "'RGB' must be target and source"),
        ({"mean": "1;2"}, "'1;2' has '1;2', which is not a number"),
        ({"mean": []}, "lists no number"),
        ({"scale": 0}, "0.0 has the scale 0, the graph divides by the scale"),
        ({"scale": {"x": [1, 0]}}, "'x': [1.0, 0.0] has the scale 0"),
    ],
)
def test_preprocessing_that_cannot_be_read_is_refused(changes: dict[str, Any], reason: str) -> None:
    assert refusal(**changes).startswith(reason)


@pytest.mark.parametrize(
    "changes",
    [
        {"layout": 4},
        {"layout": {"x": 4}},
        {"precision": ["uint8"]},
        {"resize": "bilinear"},
        {"resize": {"x": "bilinear"}},
        {"mean": True},
        {"mean": [True]},
        {"mean": None},
        {"scale": {"x": None}},
    ],
)
def test_preprocessing_of_another_type_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model(**changes)


# Contradictions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": "(4,3)", "batch_size": 4},
        {"shape": "(-1,3)", "batch_size": 4},
        {"shape": "(1:8,3)", "batch_size": 4},
        {"shape": "auto", "batch_size": 4},
        {"shape": {"a": "(4,3)", "sizes": "(1,2)"}, "batch_size": 4},
        {"shape": "(1:4,3)", "warm_up": ["(1,3)", "(4,3)"], "max_compiled_shapes": 2},
        {"shape": {"a": "(1:4,3)"}, "warm_up": ["(1,3)"]},
        {"shape": {"a": "auto", "b": "(1,3)"}, "warm_up": [{"a": "(1,2)"}]},
        {"shape": {"a": "auto"}, "warm_up": [{"a": "(1,2)", "unlisted": "(7)"}]},
        {"batch_size": 4, "warm_up": ["(4,3)", {"a": "(4,3)", "sizes": "(1,2)"}]},
        {"batching": {"max_rows": 1, "stacking": "never"}},
        {"layout": "HWN:NHW", "shape": "(5,6,4)", "batch_size": 4},
        {"layout": {"a": "CN"}, "shape": {"a": "(3,4)"}, "batch_size": 4},
        {"layout": {"a": "CN"}, "shape": "(3,4)", "batch_size": 4, "warm_up": ["(3,4)"]},
        {"layout": "CN", "batch_size": 4, "warm_up": ["(3,4)", {"a": "(3,4)"}]},
        {"layout": "N...", "shape": "(1,2,3,4,5)"},
        {"layout": "CHW", "shape": "(3,4,5)"},
    ],
)
def test_settings_that_agree_are_accepted(changes: dict[str, Any]) -> None:
    accepted = model(**changes).model_dump(exclude_unset=True)
    assert changes == {name: accepted[name] for name in changes}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"shape": "(1,3)", "batch_size": 4},
            "shape '(1,3)' does not allow batch_size 4, set only one",
        ),
        (
            {"shape": "(1:3,3)", "batch_size": 4},
            "shape '(1:3,3)' does not allow batch_size 4, set only one",
        ),
        ({"shape": "()", "batch_size": 1}, "shape '()' does not allow batch_size 1, set only one"),
        (
            {"shape": {"a": "(1,3)"}, "batch_size": 4},
            "shape {'a': '(1,3)'} does not allow batch_size 4, set only one",
        ),
        (
            {"warm_up": ["(1)", "(2)"], "max_compiled_shapes": 1},
            "warm_up has 2 shapes, max_compiled_shapes keeps 1 of them",
        ),
        (
            {"shape": "(1,3)", "warm_up": ["(1,3)", "(1,4)"]},
            "warm_up[1] '(1,4)' is outside shape '(1,3)'",
        ),
        (
            {"shape": "(1,3)", "warm_up": [{"a": "(1,4)"}]},
            "warm_up[0] {'a': '(1,4)'} is outside shape '(1,3)'",
        ),
        (
            {"shape": {"a": "(2:5)"}, "warm_up": ["(6)"]},
            "warm_up[0] '(6)' is outside shape '(2:5)' of input 'a'",
        ),
        (
            {"shape": {"a": "auto", "b": "auto"}, "warm_up": ["(6)"]},
            "warm_up[0] '(6)' names no input, shape names several (a, b)",
        ),
        (
            {"shape": {"a": "auto", "b": "auto"}, "warm_up": [{"a": "(6)"}]},
            "warm_up[0] {'a': '(6)'} leaves out input 'b'",
        ),
        (
            {"batch_size": 4, "warm_up": ["(1,3)"]},
            "warm_up[0] '(1,3)' is outside batch_size 4",
        ),
        (
            {"shape": "(1,3)", "batch_size": 4, "warm_up": ["(4,3)"]},
            (
                "shape '(1,3)' does not allow batch_size 4, set only one; "
                "warm_up[0] '(4,3)' is outside shape '(1,3)'"
            ),
        ),
        (
            {"layout": "CN", "shape": "(4,3)", "batch_size": 4},
            "shape '(4,3)' does not allow batch_size 4, set only one",
        ),
        (
            {"layout": "CN", "batch_size": 4, "warm_up": ["(4,3)"]},
            "warm_up[0] '(4,3)' is outside batch_size 4",
        ),
        (
            {"layout": "CHW", "batch_size": 4},
            "layout 'CHW' has no batch N for batch_size 4",
        ),
        (
            {"layout": "HWN:NHW", "shape": "(1,3,300,300)"},
            "shape '(1,3,300,300)' does not have the dimensions of layout HWN",
        ),
        (
            {"layout": {"a": "CN"}, "shape": {"a": "(1)", "b": "(1)"}},
            "shape '(1)' does not have the dimensions of layout CN",
        ),
        (
            {"batching": {"max_rows": 1, "stacking": "always"}},
            "stacking 'always' needs max_rows above 1, max_rows 1 stacks nothing",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    changes: dict[str, Any], reason: str
) -> None:
    assert reason == refusal(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 0},
        {"max_compiled_shapes": 0},
        {"promote_after": 0},
        {"kernel_cache_mb": 0},
        {"kernel_cache_mb": "much"},
        {"compiles_per_minute": 0},
        {"max_compiled_shapes": True},
        {"max_compiled_shapes": "16"},
        {"batching": {"max_rows": 0}},
        {"batching": {"max_row": 8}},
        {"lay_out": "NHWC"},
    ],
)
def test_values_out_of_range_or_of_another_type_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model(**changes)


def test_plugin_properties_keep_their_types() -> None:
    properties = {"NUM_STREAMS": 2, "ENABLE_CPU_PINNING": False, "X": 1.5, "HINT": "f32"}
    kept = model(plugin_config=properties).plugin_config
    assert properties == kept
    assert [type(value) for value in kept.values()] == [int, bool, float, str]


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        model().device = "GPU"
    assert Batching() == model().batching
