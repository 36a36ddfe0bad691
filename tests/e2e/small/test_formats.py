"""Every format that OpenVINO reads, served: the answers are those of a direct call, bit for bit."""

from pathlib import Path

import openvino as ov
import pytest

from tests.e2e.server import Server
from tests.e2e.small.answers import check_same, check_together, sizes
from tests.e2e.small.formats import FILES, INPUTS, NCHW, requests_for, whole

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def read(repository: Path, name: str) -> ov.Model:
    path = repository / FILES[name][0]
    return ov.Core().read_model(path.parent if path.name == "saved_model.pb" else path)


def test_the_formats_are_what_they_are_called(repository: Path) -> None:
    """Weights lie where the tests say, and reading finds them there."""
    external = repository / "onnx-external" / "1"
    assert NCHW.nbytes <= (external / "model.weights").stat().st_size
    assert (external / "model.onnx").stat().st_size < (repository / "one file.onnx").stat().st_size
    assert whole(4, 3).nbytes <= (repository / "paddle/1/inference.pdiparams").stat().st_size
    variables = repository / "saved-model" / "1" / "variables"
    assert 2 == len(list(variables.iterdir()))


@pytest.mark.parametrize("name", FILES)
def test_a_format_has_its_own_names_and_open_dimensions(server: Server, name: str) -> None:
    assert INPUTS[name] == sizes(server, name)


@pytest.mark.parametrize("name", FILES)
def test_a_format_is_answered_as_openvino_does(server: Server, repository: Path, name: str) -> None:
    model = read(repository, name)
    for request in requests_for(name):
        check_same(server, name, model, request)


@pytest.mark.parametrize("name", FILES)
async def test_requests_that_come_together_answer_as_alone(
    server: Server, repository: Path, name: str
) -> None:
    await check_together(server, name, read(repository, name), requests_for(name))
