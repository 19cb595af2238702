"""A training objective of your own, compared with plain masked language modelling at the same masks.

    python own_objective.py notes/ held-out/ --model bert-base-uncased --epochs 3

Focal loss (Lin et al. 2017, arXiv 1708.02002): a token that the model already predicts with probability p counts (1 − p)²
times, so that training spends itself on what is not known yet. What an objective can do: docs/objectives.md.
"""

import argparse

import torch

import unmask


class Focal(unmask.MaskedLanguageModelling):
    """Masked tokens, above all those that are hard to predict."""

    name = "focal"
    loss_names = ("focal",)

    def losses(self, model, batch, divisors):
        labels = torch.from_numpy(batch.target_ids).to(model.device)
        logits = model.target_logits(batch)  # [targets, vocabulary]
        log = logits.float().log_softmax(-1).gather(1, labels[:, None])[:, 0]
        # The divisor is the number of targets in the whole step, so the loss does not depend on how the step is split.
        loss = ((1 - log.exp()) ** 2 * -log).sum() / divisors[0]
        return (unmask.Loss(loss, (logits.argmax(-1) == labels).sum()),)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("text", help="a file or folder to train on")
parser.add_argument("held_out", help="a file or folder that is not trained on")
parser.add_argument("--model", default="bert-base-uncased")
parser.add_argument("--out", default="runs/own-objective")
parser.add_argument("--epochs", type=float, default=3)
args = parser.parse_args()

# The last weights of both, not those with the lowest loss: the losses of the two are not the same.
same = {
    "model": args.model,
    "epochs": args.epochs,
    "patience": 0,
    "settings": {"train.export_best": False},
}
plain = unmask.train(args.text, out=f"{args.out}/mlm", **same)
focal = unmask.train(args.text, out=f"{args.out}/focal", objective=Focal(), **same)
print(focal)
print(unmask.compare(plain.folder, focal.folder, data=args.held_out))
# To resume: unmask.train(out=..., resume=True, objective=Focal()), since the code is not in the run folder.
