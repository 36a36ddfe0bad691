"""Reads configuration files."""

from pathlib import Path
from typing import Any

import yaml


class UnreadableConfig(ValueError):
    """Raised when a file is not readable YAML; its text names the place in the file."""


class _Loader(yaml.SafeLoader):
    """Loads YAML's safe subset and refuses a repeated key: its first value would be lost."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if (key.tag, key.value) in seen:
                problem = f"the key '{key.value}' appears a second time"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node


def load(path: Path) -> Any:
    """Loads the document in a YAML file; UnreadableConfig says what is wrong, and where."""
    try:
        return yaml.load(path.read_bytes(), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise UnreadableConfig(f"{path}{place}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UnreadableConfig(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise UnreadableConfig(f"{path}: {error.strerror}") from None
