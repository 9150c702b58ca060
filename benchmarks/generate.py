"""Generation and curation beside their peers: `make bench-generate`; `--quick` only shows that everything runs.

The requests are measured in asking.py, novelty and near-duplicates in curation.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import asking

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="small sizes, one repetition")
    quick = parser.parse_args().quick
    found = asking.figures(quick)
    try:
        import curation
    except ImportError as error:
        found.append(asking.missing("curation", f"benchmarks/curation.py cannot be imported: {error}"))
    else:
        found += curation.figures(quick)
    asking.show(found)
