"""Hugging Face's Trainer with the masks of unmask.

    python trainer.py notes.txt --model bert-base-uncased --out runs/trainer

A line of the file is a text. Masks are new in every epoch and depend on the seed, the epoch and the text only, so they are
the same for any batch size and number of workers. Metrics are computed on masks that never change.
"""

import argparse
from pathlib import Path

from transformers import AutoModelForMaskedLM, AutoTokenizer, Trainer, TrainingArguments

import unmask

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("text", type=Path)
parser.add_argument("--model", default="bert-base-uncased")
parser.add_argument("--out", default="runs/trainer")
parser.add_argument("--epochs", type=float, default=3)
args = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForMaskedLM.from_pretrained(args.model)
lines = [line for line in args.text.read_text(encoding="utf-8").splitlines() if line.strip()]
# Equal lines would have equal masks; an id gives each its own.
data = [{**tokenizer(line, truncation=True), "id": number} for number, line in enumerate(lines)]
held_out = data[::20]
train = [row for number, row in enumerate(data) if number % 20]

collator = unmask.MLMCollator(tokenizer, unmask.MaskingSettings(strategy="word", rate=0.15), seed=0)
trainer = Trainer(
    model,
    # gradient_accumulation_steps stays 1: Trainer multiplies the loss of BERT by it (docs/promises.md).
    TrainingArguments(
        args.out,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=32,
        learning_rate=5e-5,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,  # keeps the column "id"
    ),
    train_dataset=train,
    data_collator=collator,
    processing_class=tokenizer,
)
trainer.train()
trainer.save_model()

# The same masked tokens before and after, for both models.
print(unmask.compare(args.model, args.out, data=[lines[row["id"]] for row in held_out]))
