"""Hugging Face Trainer: hand over the optimizer; the model returns its loss, and is replayed.

    python examples/integrations/transformers_trainer.py

The trainer clips by default, which would miss the direction: max_grad_norm=0, and max_norm instead.
"""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import flatminima as fm

torch.manual_seed(0)
size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
model = BertForSequenceClassification(BertConfig(vocab_size=20, intermediate_size=32, **size))
words = torch.randint(20, (128, 8))
rows = [{"input_ids": row, "labels": (row[0] > 9).long()} for row in words]

base = torch.optim.AdamW(model.parameters(), lr=5e-3)
optimizer = fm.SharpnessAwareOptimizer(base, fm.sam(rho=0.05), replay=model, max_norm=1.0)
schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)

with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=10,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        max_grad_norm=0.0,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, optimizers=(optimizer, schedule))
    print(f"loss {trainer.train().training_loss:.3f}, mean over the training")
