"""Print the seals of an answer, for ``answers/<chapter>.json``.

python -m pkbook.lab.exercises domingos.2 --step 0.2 -- 2
"""

import argparse
import json

from pkbook.lab.exercises.sealing import sealed


def main(arguments: list[str] | None = None) -> None:
    """Print the seals as JSON."""
    parser = argparse.ArgumentParser(description="Print the seals of an answer, as JSON.")
    parser.add_argument("exercise", help="chapter, dot, number of the exercise: domingos.2")
    parser.add_argument("--step", type=float, required=True, help="the tolerance of an entry")
    parser.add_argument("answer", type=float, nargs="+", help="its entries, row by row")
    asked = parser.parse_args(arguments)
    print(json.dumps(sealed(asked.exercise, asked.answer, asked.step)))


if __name__ == "__main__":
    main()
