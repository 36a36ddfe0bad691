"""The loop of a client's interpreter: runs the requested calls, one after the other."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any


def answer(functions: Mapping[str, Callable[..., Any]]) -> None:
    """Calls the function that each line of standard input names, a JSON list with its arguments.

    Writes a line for each call: its error as a JSON string, empty without an error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that printed text is not an answer
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        wrong = ""
        try:
            functions[name](*arguments)
        except BaseException:
            wrong = traceback.format_exc()
        print(json.dumps(wrong), file=answers, flush=True)
