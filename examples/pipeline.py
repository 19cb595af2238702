"""Text in, a model out if it is better: for a scheduled job or continuous integration.

    python pipeline.py notes/ general/ --model bert-base-uncased --require "domain>=5%,forgetting<=2%"

Ends with 0 if the model met the bounds and was exported, and otherwise with the exit code of unmask: 3 for text that cannot be
used, 6 for a model that misses a bound, 75 for a run that was stopped and goes on if this is started again.
"""

import argparse
import sys
from pathlib import Path

import unmask

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("text", help="a file or folder of the domain")
parser.add_argument("general", help="general text, on which forgetting is measured")
parser.add_argument("--model", default="bert-base-uncased")
parser.add_argument("--out", type=Path, default=Path("runs/pipeline"))
parser.add_argument("--require", default="domain>=5%,forgetting<=2%")
parser.add_argument("--epochs", type=float, default=None, help="by default the size of the text decides")
args = parser.parse_args()

try:
    check = unmask.check(args.text, model=args.model)
    print(check, file=sys.stderr)

    run = unmask.train(
        args.text,
        model=args.model,
        general=args.general,
        require=args.require,
        epochs=args.epochs,
        out=args.out / "run",
        resume=True,  # where there is no run yet, it starts at the beginning
    )
    print(run, file=sys.stderr)
    if run.unmet:
        print(f"not released: {run.unmet}", file=sys.stderr)
        sys.exit(6)
except unmask.UnmaskError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
print(run.folder.model)  # the released model, for the next command of the pipeline
