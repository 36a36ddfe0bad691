"""Checks serve_config.yaml before Ray reads it: `python -m deployments.check serve_config.yaml`.

Ray ignores unknown keys and finds other mistakes only when replicas start. This command lists them
all, a line for each, and exits with 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from deployments.check.files import UnreadableConfig, load
from deployments.check.haproxy import haproxy_available, without_haproxy
from deployments.check.problems import model_names, problems


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m deployments.check", description="Check a config.")
    parser.add_argument("config", type=Path, nargs="?", help="the file for `serve run`")
    parser.add_argument(
        "--without-haproxy", type=Path, metavar="OUT", help="write a copy that uses Ray's own proxy"
    )
    parser.add_argument(
        "--haproxy-available", action="store_true", help="exit with 0 if HAProxy can run here"
    )
    options = parser.parse_args(arguments)
    if options.haproxy_available:
        return 0 if haproxy_available() else 1
    if options.config is None:
        parser.error("the configuration file is missing")
    return _check_file(options.config, options.without_haproxy)


def _check_file(path: Path, copy_to: Path | None) -> int:
    try:
        config = load(path)
    except UnreadableConfig as error:
        sys.stdout.write(f"{error}\n")
        return 1
    found = problems(config)
    sys.stdout.writelines(f"{path}: {problem}\n" for problem in found)
    if found:
        return 1
    if copy_to is not None:
        copy_to.write_text(yaml.safe_dump(without_haproxy(config), sort_keys=False), "utf-8")
    count = len(model_names(config))
    sys.stdout.write(f"ok: {path}: {count} model{'' if count == 1 else 's'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
