"""`python -m didact.starter make|check|effect FOLDER`: the commands of the starter without the rest of the program."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from didact.starter import base_folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="didact.starter", description=__doc__)
    parser.add_argument("command", choices=("make", "check", "effect"))
    parser.add_argument("folder", type=Path, nargs="?", help="the base; default: the shipped one")
    parser.add_argument("--out", type=Path, default=Path("effect.jsonl"), help="effect: its rows, also to go on from")
    parser.add_argument("--n", type=int, default=400, help="check: probes per gate")
    parser.add_argument("--seed", type=int, default=0, help="make: the seed")
    parser.add_argument("--seeds", type=int, default=3, help="effect: tuning seeds")
    parser.add_argument("--examples", type=int, default=4000, help="effect: tuning examples")
    asked = parser.parse_args()
    folder = asked.folder or base_folder()
    if asked.command == "make":
        from didact.starter.gates import quick
        from didact.starter.make import make

        if asked.folder is None:
            parser.error("make needs a folder to write to")
        make(folder, asked.seed, probe=quick)
    elif asked.command == "check":
        from didact.starter.gates import check

        print(json.dumps([gate.to_json() for gate in check(folder, asked.n)], indent=1))  # noqa: T201
    else:
        from didact.starter.effect import effect
        from didact.starter.effect_table import table

        print(table(effect(folder, asked.out, asked.seeds, asked.examples)))  # noqa: T201


if __name__ == "__main__":
    main()
