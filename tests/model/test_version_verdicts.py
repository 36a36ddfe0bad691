"""Which compilation a shape keeps, as versions decide it."""

from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

from deployments.model import version as version_module
from deployments.model.compiled_shape import CannotInfer
from tests.model import models
from tests.model.loading import loaded


def test_what_earlier_shapes_gave_is_expected_of_the_next_one() -> None:
    version = loaded(models.convolution())
    key = version.key_of([(1, 3, 5, 6)])
    static = version.reshape(key)()
    verdicts: list[bool | Exception] = [True, True, True, CannotInfer("no"), False, False]
    verdicts += [False, False, False, True, True]
    expected: list[int] = []

    def decided(*given: Any) -> bool:
        expected.append(given[-1])
        verdict = verdicts[len(expected) - 1]
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    with patch.object(version_module, "static_wins", decided):
        kept = [version.static_pays(key, static, nullcontext) for _ in verdicts]
    assert [verdict is not False for verdict in verdicts] == kept
    assert [0, 1, 2, 2, 2, 1, 0, -1, -2, -2, -1] == expected, "the latest ones count"
