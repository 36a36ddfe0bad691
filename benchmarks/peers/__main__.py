"""`make bench-peers`: compares this project with Triton, or (`BENCH=python`) Python servers."""

import sys

from benchmarks.peers import python_servers
from benchmarks.peers.triton import comparison


def main() -> None:
    options = sys.argv[1:]
    if options[:1] == ["python"]:
        python_servers.main(options[1:])
    else:
        comparison.main(options)


if __name__ == "__main__":
    main()
