from pathlib import Path

import pytest

from deployments.model.versions.hot_shapes import HotShapes


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    hot = HotShapes(tmp_path / "new" / "m" / "hot.json")
    assert [] == hot.read()
    shapes = [((1, 3, 300, 300), ()), ((0,), (2, 2))]
    hot.write(shapes)
    assert shapes == hot.read()
    assert [hot.file] == list(hot.file.parent.iterdir())


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"shapes": 3}', '{"shapes": [[["a"]]]}', '{"shapes": [[[-1]]]}', "\0"],
)
def test_a_file_that_cannot_be_understood_is_left_out_and_told(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "hot.json"
    file.write_text(content)
    assert [] == HotShapes(file).read()
    assert "skipping the remembered shapes in hot.json: " in caplog.text


def test_a_place_that_cannot_be_written_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.touch()
    HotShapes(file / "hot.json").write([])
    assert "cannot remember shapes in" in caplog.text
