from pathlib import Path

import pytest

from deployments.model.sources.local import SourceUnavailable, locate, versions_in


def put(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_every_positive_version_directory_with_a_model_file_is_a_version(tmp_path: Path) -> None:
    ir = put(tmp_path / "2" / "model.xml")
    put(tmp_path / "2" / "model.bin")
    onnx = put(tmp_path / "10" / "model.onnx")
    lite = put(tmp_path / "1" / "model.tflite")
    paddle = put(tmp_path / "3" / "model.pdmodel")
    frozen = put(tmp_path / "4" / "frozen.pb")
    found = versions_in(tmp_path)
    assert {1: lite, 2: ir, 3: paddle, 4: frozen, 10: onnx} == found
    assert list(found) == [1, 2, 3, 4, 10]


@pytest.mark.parametrize("junk", ["0", "01", "-1", "+1", "1.0", "v1", "latest", ".1", "1 ", "²"])
def test_other_directory_names_are_no_versions(tmp_path: Path, junk: str) -> None:
    put(tmp_path / junk / "model.xml")
    assert versions_in(tmp_path) == {}


def test_files_beside_versions_are_no_versions(tmp_path: Path) -> None:
    put(tmp_path / "1")
    put(tmp_path / "README.md")
    assert versions_in(tmp_path) == {}


@pytest.mark.parametrize(
    "file", ["model.bin", ".m.xml.part", "._model.xml", "model.xml/x", "a.XML"]
)
def test_versions_without_a_model_file_are_left_out(tmp_path: Path, file: str) -> None:
    put(tmp_path / "1" / file)
    model = put(tmp_path / "2" / "model.xml")
    assert {2: model} == versions_in(tmp_path)


def test_a_missing_directory_has_no_versions(tmp_path: Path) -> None:
    assert versions_in(tmp_path / "no_allocation") == {}


def test_an_xml_goes_before_an_onnx_and_a_before_b(tmp_path: Path) -> None:
    for name in ("b.xml", "a.onnx", "a.xml"):
        put(tmp_path / "1" / name)
    assert {1: tmp_path / "1" / "a.xml"} == versions_in(tmp_path)


def test_a_saved_model_is_read_as_its_directory(tmp_path: Path) -> None:
    file = put(tmp_path / "1" / "saved_model.pb")
    assert {1: tmp_path / "1"} == versions_in(tmp_path)
    assert {1: tmp_path / "1"} == locate("m", "1", tmp_path)
    assert {1: tmp_path / "1"} == locate("m", str(file), tmp_path)


@pytest.mark.parametrize("absolute", [False, True])
def test_a_local_source_is_a_directory_of_versions_or_a_file(
    tmp_path: Path, absolute: bool
) -> None:
    file = put(tmp_path / "m" / "3" / "model.onnx")
    directory, single = ("m", "m/3/model.onnx")
    if absolute:
        directory, single = (str(tmp_path / path) for path in (directory, single))
    repository = tmp_path / "elsewhere" if absolute else tmp_path
    assert {3: file} == locate("m", directory, repository)
    assert {1: file} == locate("m", single, repository)


def test_a_local_source_that_cannot_be_served_says_why(tmp_path: Path) -> None:
    put(tmp_path / "m" / "2" / "model.bin")
    put(tmp_path / "notes.txt")
    for source, reason in {
        "m": f"directory {tmp_path}/m has no version directory with a model file (without one: 2)",
        "m/2": f"directory {tmp_path}/m/2 has no version directory with a model file",
        "gone": f"source of model m does not exist: {tmp_path}/gone",
        "notes.txt": f"{tmp_path}/notes.txt is not a model file"
        " (.xml, .onnx, .tflite, .pdmodel, .pb)",
    }.items():
        with pytest.raises(SourceUnavailable) as failure:
            locate("m", source, tmp_path)
        assert reason == str(failure.value)


def test_a_version_that_no_protocol_can_tell_is_none(tmp_path: Path) -> None:
    for name in (str(2**63 - 1), str(2**63), "9" * 30):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.onnx").touch()
    assert [2**63 - 1] == list(versions_in(tmp_path))
