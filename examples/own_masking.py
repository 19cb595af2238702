"""A masking strategy of your own, compared with whole words.

    python own_masking.py notes/ held-out/ --model bert-base-uncased --epochs 3

A strategy puts the tokens of a sequence into units that are masked together, and may weigh them. Here numbers are masked
four times as often as other words; the mask rate over all tokens stays what it is.
"""

import argparse

import unmask


def numbers_more_often(tokens, words):
    """Return the unit of each token, and how often it is masked compared with others.

    Args:
        tokens: the tokens of a sequence, as the vocabulary spells them.
        words: the number of the word that each is in; words are the units here.
    """
    numbers = {word for token, word in zip(tokens, words, strict=True) if any(c.isdigit() for c in token)}
    return words, [4.0 if word in numbers else 1.0 for word in words]


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("text", help="a file or folder to train on")
parser.add_argument("held_out", help="a file or folder that is not trained on")
parser.add_argument("--model", default="bert-base-uncased")
parser.add_argument("--out", default="runs/own-masking")
parser.add_argument("--epochs", type=float, default=3)
args = parser.parse_args()

same = {"model": args.model, "epochs": args.epochs, "mask_rate": 0.2}
words = unmask.train(args.text, out=f"{args.out}/words", strategy="word", **same)
numbers = unmask.train(args.text, out=f"{args.out}/numbers", strategy=numbers_more_often, **same)

# Both predict the same tokens here, chosen one by one. A strategy must not be judged by masks of its own alone.
print(unmask.compare(words.folder, numbers.folder, data=args.held_out))
