"""PET beside a head over few and many labels; intrinsic prompts over d_I, with random spaces beside.

    python benchmarks/methods_programs.py            full; half an hour on one core, goes on where it stopped
    python benchmarks/methods_programs.py --quick    smallest sizes: does everything run?

The parts are methods_pet.py, which needs the shared material (DIDACT_MATERIAL) for DBpedia, and methods_spaces.py, on
the starter. What was measured is kept in build/bench-methods-programs, one file a cell.
"""

from __future__ import annotations

import argparse

import methods_pet
import methods_spaces


def measure(model: str | None, quick: bool, only: str = "", ipet: bool = True) -> None:
    """Both parts."""
    if only != "intrinsic":
        methods_pet.measure(model, quick, ipet)
    if only != "pet":
        methods_spaces.measure(quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smallest sizes")
    parser.add_argument("--model", help="another base for PET: a folder")
    parser.add_argument("--only", choices=["pet", "intrinsic"], default="", help="one of the two")
    parser.add_argument(
        "--rates", nargs="*", help="instead: these methods at multiples of their rates, on single tasks"
    )
    parser.add_argument("--factors", nargs="*", type=float, default=[0.3, 1.0, 3.0], help="of the default rate")
    parser.add_argument("--no-ipet", action="store_true", help="leave out iPET at the fewest labels")
    args = parser.parse_args()
    if args.rates is not None:
        methods_spaces.rates(args.rates, args.factors)
        return
    measure(args.model, args.quick, args.only, not args.no_ipet)


if __name__ == "__main__":
    main()
